"""Where the kernels of trials run: on this machine, or on the workers of a dask cluster, which see the POC's folder at the same path.

`Local` and `Dask` are used alike, by a thread for each trial. A worker is sent no key, and of the environment poclab's own variables alone.
It must have the code, the Python, the packages and the address of the model that the sweep began with. What its kernels ask is kept in a
ledger of its host and paid from a share of the sweep's budget, until the POC's ledger takes it over: see `ledger.hosts`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poclab import kernels, runner
from poclab.drift import State, code_digests, environment
from poclab.errors import InputError, PocError
from poclab.files import digest, unwritable, work_folder
from poclab.kernels import NotebookError
from poclab.ledger import HOST_LEDGER, LEDGER, Ledger, hosts
from poclab.redaction import shown
from poclab.requests import BUDGET
from poclab.zygote import Zygote

if TYPE_CHECKING:
    import distributed

#: What a trial of the reference notebook imports by and by; and what one imports that searches by vectors, which takes as long again.
PRELOADED = (
    "ipykernel.ipkernel", "ipykernel.kernelapp", "bm25s", "filelock", "jiter", "openai.resources.chat.completions",
    "poclab.experiment", "poclab.rag", "Stemmer", "yaml",
)  # fmt: skip
DENSE = ("sklearn.feature_extraction.text", "sklearn.utils.extmath")
#: How long, in seconds, a scheduler may take to answer, and how often a worker looks whether its trial is still waited for.
CONNECTING_S, LOOKING_S = 10, 0.5
#: How long, in seconds, the kernel of a worker that died may take to end, too.
ENDING_S = 10
LOST = "dead_worker"
STORE = "MLFLOW_TRACKING_URI"


@dataclass(frozen=True)
class Order:
    """A notebook that is to be executed, and kept in `folder`. `env` is what its kernel has besides the environment of its machine.

    The kernel is forked from a process that has done the `imports`, where there are any and it can.
    """

    notebook: Path
    folder: Path
    parameters: Mapping[str, Any]
    env: Mapping[str, str]
    cwd: Path
    timeout_s: float | None
    cell_timeout_s: float | None
    imports: tuple[str, ...]

    @property
    def output(self) -> Path:
        return self.folder / "executed.ipynb"

    def execute(self, zygote: Zygote | None) -> NotebookError | None:
        """Execute it on this machine; return what it failed by, if it did."""
        try:
            kernels.execute(
                self.notebook,
                self.output,
                self.parameters,
                env={**os.environ, **self.env},
                cwd=self.cwd,
                timeout_s=self.timeout_s,
                cell_timeout_s=self.cell_timeout_s,
                zygote=zygote,
            )
        except NotebookError as error:
            return error
        return None


def _zygote(imports: tuple[str, ...], env: Mapping[str, str]) -> Zygote | None:
    return Zygote(imports, {**os.environ, **env}) if imports and sys.platform == "linux" else None


class Local:
    """Kernels of this machine, forked where there are `imports`, from a process that begins with them at once."""

    #: Whether each trial has a share of the budget for itself.
    shares = False

    def __init__(self, imports: tuple[str, ...], env: Mapping[str, str]) -> None:
        self.zygote = _zygote(imports, env)

    def execute(self, order: Order, *, alone: bool) -> NotebookError | None:
        return order.execute(self.zygote)

    def stop(self, work: Collection[Future[Any]]) -> None:
        """Kill the kernels, until the threads that wait for them end."""
        self.close()
        kernels.kill_running(work)

    def close(self) -> None:
        if self.zygote:
            self.zygote.close()


class Dask:
    """Kernels of the workers of a dask cluster, `jobs` at a time: of a scheduler's by its address, or of a client's.

    Without either it is a cluster of one worker in this process.

    Raises:
        InputError: dask is not installed, or no scheduler answers there.
    """

    def __init__(self, source: Any, poc: Path, jobs: int, say: Callable[[str], None]) -> None:
        self.poc, self.jobs, self.say = poc, jobs, say
        self.here = _Here.of(poc)
        self.shares = source is not None
        self.cluster, self.client, self.mine = None, source, isinstance(source, str | None)
        if self.mine:
            self.cluster, self.client = _connected(source, jobs)
        else:
            _refuse_unfit(source)
        try:
            _refuse_without_poclab(self.client)
        except InputError:
            if self.mine:
                self.client.close()
            raise
        self.folder = work_folder(poc, "hosts") if self.shares else None
        self.pool = self.client.get_executor(pure=False)
        self._lock, self._given = threading.Lock(), 0
        self._futures: set[Future[Any]] = set()
        if self.shares:
            ledger = Ledger.open(poc / LEDGER)
            hosts.take_over(ledger, self.folder)  # of a sweep whose driver was killed
            hosts.seed(ledger, self.folder)
            if not self.client.scheduler_info(n_workers=1)["workers"]:
                say("the cluster has no worker yet: trials begin when one comes")

    def execute(self, order: Order, *, alone: bool) -> NotebookError | None:
        """Execute a notebook on a worker. Of the budget it may spend all that is left when it is `alone`."""
        with self._share(order.env.get(BUDGET), alone) as share:
            # An address of the store that holds a password stays here; workers have their own.
            env = {name: value for name, value in order.env.items() if name != STORE or shown(value) == value}
            key = f"poclab-{uuid.uuid4().hex}"
            future = None
            try:
                future = self.pool.submit(_on_worker, replace(order, env=env), self.here, self.folder, share, key=key)
                self._futures.add(future)
                done = future.result()
            except Exception as error:  # its worker died, or the scheduler did
                done = _lost(error) if self.client.status == "running" else _gone(self.client)
            finally:
                self._futures.discard(future)
            if share:
                self._settle(share[0], done)
            return done.failure

    def _settle(self, share: str, done: _Done) -> None:
        """Give back what was not spent of a share. If nobody says, since its kernel does not end, that is for the end of the sweep."""
        until = time.monotonic() + ENDING_S
        while (used_usd := done.used_usd if done.used_usd is not None else hosts.spent_of(share, self.folder)) is None:
            if time.monotonic() > until:
                return
            time.sleep(LOOKING_S)
        hosts.settle_share(Ledger.open(self.poc / LEDGER), share, self.folder, used_usd)

    @contextlib.contextmanager
    def _share(self, budget: str | None, alone: bool) -> Iterator[tuple[str, float] | None]:
        """Set a part of what is left of the budget aside: as many parts as trials that may run beside this one."""
        if not budget or not self.shares:
            yield None
            return
        ledger = Ledger.open(self.poc / LEDGER)
        with self._lock:
            left_usd = ledger.spent(budget).left_usd
            usd = max(0.0, left_usd / (1 if alone else self.jobs - self._given) - 1e-9)  # as a number of billionths it is rounded up
            number = ledger.reserve(budget, usd).number
            hosts.note_share(number, self.folder)
            self._given += 1
        try:
            yield number, usd
        finally:
            with self._lock:
                self._given -= 1

    def stop(self, work: Collection[Future[Any]]) -> None:
        """Have the kernels killed, until the threads that wait for them end."""
        while any(future.running() for future in work):
            for future in tuple(self._futures):
                future.cancel()
            time.sleep(0.1)  # and again: one may just be starting

    def close(self) -> None:
        """Take over what hosts have, and let go of the cluster."""
        if self.shares:
            for problem in hosts.take_over(Ledger.open(self.poc / LEDGER), self.folder):
                self.say(f"not taken over yet, but when the next sweep begins: {problem}")
            (self.folder / hosts.SEED).unlink(missing_ok=True)
        if self.cluster:
            _cool()
        with contextlib.suppress(Exception):  # a scheduler that is gone
            self.client.run(_cool_later, wait=False, on_error="ignore")
        if self.mine:
            self.client.close()
        if self.cluster:
            self.cluster.close()


Executor = Local | Dask


def chosen(name: Any, poc: Path, jobs: int, *, imports: tuple[str, ...], env: Mapping[str, str], say: Callable[[str], None]) -> Executor:
    """Return where kernels are to run: `local`, `dask`, `dask=ADDRESS`, or a `distributed.Client`.

    Raises:
        InputError: it is none of these, or cannot be had.
    """
    if name == "local":
        return Local(imports, env)
    if hasattr(name, "get_executor"):
        return Dask(name, poc, jobs, say)
    kind, equals, address = str(name).partition("=")
    if kind != "dask" or (equals and not address):
        raise InputError(f"executor {name!r}", fix="local, dask, or dask=ADDRESS of a scheduler, such as dask=tcp://10.0.0.5:8786")
    return Dask(address or None, poc, jobs, say)


def _connected(address: str | None, jobs: int) -> tuple[Any, distributed.Client]:
    """Return a cluster of our own, if there is no address, and a client."""
    try:
        import distributed
    except ImportError:
        raise InputError("dask is not installed", fix='pip install "poclab[dask]"') from None
    if not address:
        cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=jobs, processes=False, dashboard_address="127.0.0.1:0")
        return cluster, distributed.Client(cluster, set_as_default=False)
    try:
        # First by hand: a client that finds nobody hangs for another 20 s when it is thrown away, and prints a traceback.
        runner.result_of(asyncio.wait_for(_greet(address), CONNECTING_S))
        return None, distributed.Client(address, timeout=CONNECTING_S, set_as_default=False)
    except (
        OSError,
        ValueError,
        TypeError,
    ) as error:  # an address that is none, nobody there, or somebody who does not speak dask; TLS without its settings
        why = f"no answer within {CONNECTING_S} s" if isinstance(error, TimeoutError) else str(error).split("\n")[0]
        raise InputError(
            f"no dask scheduler answers at {shown(address)}: {why}",
            fix="start one, `dask scheduler`, with workers, `dask worker ADDRESS --nthreads 1`; or give --executor dask alone",
        ) from None


async def _greet(address: str) -> None:
    """Return when a scheduler has said who it is."""
    import distributed
    from distributed.comm import connect

    comm = await connect(address, timeout=CONNECTING_S, **distributed.Security().get_connection_args("client"))
    try:
        await comm.write({"op": "identity", "reply": True})
        if (await comm.read()).get("type") != "Scheduler":
            raise ValueError("it is no scheduler")
    finally:
        comm.abort()


def _refuse_without_poclab(client: Any) -> None:
    """Refuse workers that cannot even say what they have: one that cannot read a trial ends, and the next one that is given it, too."""
    look = "__import__('importlib.util').util.find_spec('poclab') is not None"
    if lacking := sorted(worker for worker, found in client.run(eval, look, on_error="return").items() if found is not True):
        raise InputError(
            f"worker {lacking[0]} has no poclab ({len(lacking)} in all)", fix="install the same version there, and start its workers anew"
        )


def _refuse_unfit(client: Any) -> None:
    """Refuse a client that trials cannot be waited for with."""
    if getattr(client, "asynchronous", False):
        raise InputError("the dask client is asynchronous", fix="executor=distributed.Client(address), outside of a coroutine")
    if getattr(client, "status", "running") != "running":
        raise InputError(f"the dask client is {client.status}", fix="executor=distributed.Client(address)")


# --- on a worker


@dataclass(frozen=True)
class _Here:
    """What must be on a worker as it was where the sweep began."""

    state: State
    endpoint: str

    @classmethod
    def of(cls, poc: Path) -> _Here:
        python, packages = environment()
        # The address may hold a key.
        return cls(State(code_digests(poc), "", None, python, dict(packages)), digest(os.environ.get("OPENAI_BASE_URL", "")))

    def differences(self, there: _Here) -> Iterator[str]:
        """Yield what is not the same there, in words. A package that only one of them has may be a tool."""
        both = self.state.packages.keys() & there.state.packages.keys()
        mine, others = (replace(one.state, packages={name: one.state.packages[name] for name in both}) for one in (self, there))
        yield from mine.changes(others)
        if self.endpoint != there.endpoint:
            yield "OPENAI_BASE_URL is another address"


@dataclass(frozen=True)
class _Done:
    """How an order ended on a worker, and what of its share was used: None where nobody knows."""

    failure: NotebookError | None
    used_usd: float | None = None


def _on_worker(order: Order, here: _Here, folder: Path | None, share: tuple[str, float] | None) -> _Done:
    """Execute an order on this worker. Where there is a `folder` of hosts' ledgers, answers go to this host's, paid from the share."""
    try:
        _refuse_other(order, here)
        _mark(order.folder / "worker")
    except FileExistsError:  # dask itself gave it to another worker, after one had begun with it and died
        return _Done(NotebookError(None, "WorkerDied", "the worker that had it died", outcome=LOST))
    except PocError as error:
        return _refused(error, used_usd=0.0)
    try:
        if not folder:
            return _Done(_executed(order, here))
        with hosts.opened(folder) as ledger:
            env = {**order.env, HOST_LEDGER: str(ledger.path), **({BUDGET: share[0]} if share else {})}
            if share:
                ledger.open_budget(*share)
        failure = _executed(replace(order, env=env), here)
        if not share:
            return _Done(failure)
        with hosts.opened(folder) as ledger:
            return _Done(failure, ledger.spent(share[0]).used_usd)
    except PocError as error:
        return _refused(error)


def _lost(error: Exception) -> _Done:
    return _Done(NotebookError(None, "WorkerDied", f"{type(error).__name__}: {error}".splitlines()[0], outcome=LOST))


def _gone(client: Any) -> _Done:
    """Say that the scheduler is gone: no trial can be run again there. What a kernel that still runs has spent is told by its host."""
    told = InputError(
        f"the dask scheduler is gone: the client is {client.status}", fix="start it and its workers, and type the same command again"
    )
    return _Done(NotebookError(None, type(told).__name__, str(told), outcome="invalid"))


def _mark(file: Path) -> None:
    try:
        file.touch(exist_ok=False)
    except FileExistsError:
        raise
    except OSError as error:
        raise unwritable(file.parent, error, "have the POC's folder mounted so that workers can write there") from None


def _refused(error: PocError, used_usd: float | None = None) -> _Done:
    from distributed import get_worker

    told = InputError(f"worker {get_worker().address}: {error.message}", fix=error.fix)
    return _Done(NotebookError(None, type(told).__name__, str(told), outcome="invalid"), used_usd)


def _refuse_other(order: Order, here: _Here) -> None:
    if not order.folder.is_dir():
        raise InputError(f"{order.folder} is not there", fix="put the POC where all machines see it, at the same path")
    if found := list(here.differences(_Here.of(order.cwd))):
        raise InputError(f"not what the sweep began with: {'; '.join(found)}", fix="have the same there, and start its workers anew")


def _executed(order: Order, here: _Here) -> NotebookError | None:
    """Execute an order, as long as somebody waits for it."""
    from distributed import get_worker
    from distributed.worker import thread_state

    ended = threading.Event()
    threading.Thread(target=_watch, args=(get_worker(), thread_state.key, order.output, ended), daemon=True).start()
    try:
        with _warm(order, here) as zygote:
            return order.execute(zygote)
    finally:
        ended.set()


def _watch(worker: Any, key: str, output: Path, ended: threading.Event) -> None:
    """Kill the kernel of a task that nobody waits for any more: it was cancelled, or its driver is gone."""
    while not ended.wait(LOOKING_S):
        task = worker.state.tasks.get(key)
        if task is None or task.state != "executing":
            kernels.kill(output)


#: By what they have imported, with the number of those who use them.
_zygotes: dict[str, list[Any]] = {}
_changing = threading.Lock()


def _cool(besides: str = "") -> None:
    """End the processes with imports that nobody uses."""
    with _changing:
        for name in [name for name, (_, users) in _zygotes.items() if name != besides and not users]:
            if zygote := _zygotes.pop(name)[0]:
                zygote.close()


async def _cool_later() -> None:  # dask waits for what is no coroutine
    _cool()


@contextlib.contextmanager
def _warm(order: Order, here: _Here) -> Iterator[Zygote | None]:
    """Give a process with the imports of an order, if it names any; it stays for the next one until others are needed."""
    key = digest([order.imports, here.state.code, str(order.cwd)])
    _cool(besides=key)
    with _changing:
        found = _zygotes.setdefault(key, [None, 0])
        found[0] = found[0] or _zygote(order.imports, order.env)
        found[1] += 1
    try:
        yield found[0]
    finally:
        with _changing:
            found[1] -= 1
