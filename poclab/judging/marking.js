// The keys of a ReplyLabeler, from anywhere in the form: Alt and a key presses the button of the class that names the key.

function render({ el }) {
  let form = null;

  function onKey(event) {
    if (!event.altKey || event.ctrlKey || event.metaKey) return;
    // On a Mac Alt+1 is a character of its own.
    const key = /^[a-z0-9]$/i.test(event.key) ? event.key.toLowerCase() : event.code.replace(/^(Digit|Numpad|Key)/, "").toLowerCase();
    const button = form.querySelector(`.poclab-key-${key}`);
    if (!button) return;
    event.preventDefault();
    event.stopPropagation();
    if (!event.repeat) button.click();
  }

  // A letter means nothing to the notebook while the form has the focus: there X would cut a cell.
  function keep(event) {
    if (!event.altKey && !event.ctrlKey && !event.metaKey) event.stopPropagation();
  }

  function leave() {
    form?.removeEventListener("keydown", onKey, true);
    form?.removeEventListener("keydown", keep);
  }

  // The form is there only once this view is put into it, and is laid out.
  const watcher = new ResizeObserver(() => {
    const found = el.closest(".poclab-marking");
    if (!found || found === form) return;
    leave();
    form = found;
    form.tabIndex = -1; // a click on a text is enough for the keys
    form.style.outline = "none";
    form.addEventListener("keydown", onKey, true); // on the way down: fields of ipywidgets keep keys to themselves
    form.addEventListener("keydown", keep);
  });
  watcher.observe(el);

  return () => {
    watcher.disconnect();
    leave();
  };
}

export default { render };
