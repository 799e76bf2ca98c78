"""JupyterLab in a browser, for tests of what a person sees: needs Debian's Chromium."""

import contextlib
import json
import os
import shutil
import subprocess
import sys

import pytest

from conftest import free_port, until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
)
#: What a page may take, in milliseconds, on a machine that does other things.
PATIENCE_MS = 60_000
needed = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt-get install chromium")


@contextlib.contextmanager
def launched():
    """A browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS.split())
        yield found
        found.close()


@contextlib.contextmanager
def opened(browser):
    """A page; what its console calls an error is kept in `errors`, what it hears from kernels in `heard`, and what pops up in `dialogs`."""
    page = browser.new_page(viewport={"width": 1500, "height": 1400})
    page.set_default_timeout(PATIENCE_MS)
    page.errors, page.heard, page.dialogs = [], [], []
    page.on("console", lambda message: message.type == "error" and page.errors.append(message.text))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("dialog", lambda dialog: (dialog.type == "beforeunload" or page.dialogs.append(dialog.message), dialog.accept()))
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: page.heard.append(frame)))
    yield page
    page.close()


@contextlib.contextmanager
def jupyterlab(root, **env):
    """JupyterLab on a folder: the address of a notebook in it is this, with its name in the place of `{}`."""
    settings = root / "config" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    port = free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--IdentityProvider.token=t"]
    command += [f"--ServerApp.root_dir={root}", "--ServerApp.port_retries=0"]
    folders = {name: str(root / name.lower()) for name in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    env = {**os.environ, **folders, "JUPYTER_CONFIG_DIR": str(root / "config"), **env}
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield f"http://127.0.0.1:{port}/lab/tree/{{}}?token=t"
    finally:
        process.terminate()
        process.wait(30)


def run_all(page, address):
    """Open a notebook, and run all of it."""
    until(lambda: _answers(page, address), "JupyterLab answers")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
    page.locator(".lm-Menu-itemLabel", has_text="Run All Cells").first.click()


def _answers(page, address):
    from playwright.sync_api import Error

    try:
        return page.goto(address)
    except Error:
        return None


def ours(errors):
    """Return the errors that are not of a page that a server without network cannot have."""
    return [one for one in errors if "favicon" not in one and "ERR_INTERNET" not in one]
