// The passages of a Labeler, to select evidence in, and the keys of its whole form. All texts are hostile: textContent only.

function render({ model, el }) {
  const view = String(Math.random()); // the same labeler may be shown twice: an echo is for who asked
  let form = null;
  let selection = null;
  let titles = "";
  let origin = null; // what had the focus when an action was asked for
  let waiting = null; // what was typed since an action was asked for; null when none is under way

  function draw() {
    const caret = selection;
    const focused = el.contains(document.activeElement);
    selection = null;
    const sections = model.get("passages").map(({ title, pieces }) => {
      const section = document.createElement("section");
      const header = document.createElement("header");
      header.textContent = title;
      const text = document.createElement("div");
      text.className = "poclab-text";
      // Editable for the caret, so that text can be selected with the keys, and keys mean nothing to the notebook; changes are refused below.
      text.contentEditable = "true";
      text.spellcheck = false;
      text.setAttribute("role", "textbox");
      text.setAttribute("aria-readonly", "true");
      text.setAttribute("aria-label", title);
      for (const [piece, marked] of pieces) {
        const part = document.createElement(marked ? "mark" : "span");
        part.textContent = piece;
        text.append(part);
      }
      section.append(header, text);
      return section;
    });
    el.replaceChildren(...sections);
    const now = sections.map((section) => section.firstChild.textContent).join("\n");
    const same = now === titles; // with other evidence
    titles = now;
    if (!same) el.scrollTop = 0;
    if (focused) stay(same && caret ? caret : { passage: 0, end: 0 });
  }

  // Keys are heard while something of the form has the focus; what had it is not there any more.
  function stay({ passage, end }) {
    const text = el.querySelectorAll(".poclab-text")[passage];
    (text ?? el).focus({ preventScroll: true });
    for (const part of text?.children ?? []) {
      const characters = Array.from(part.textContent);
      if (end <= characters.length) return document.getSelection().collapse(part.firstChild, characters.slice(0, end).join("").length);
      end -= characters.length;
    }
  }

  // Python counts characters, a browser counts UTF-16 units.
  const length = (range) => Array.from(range.toString()).length;

  function select() {
    const found = document.getSelection();
    const range = found && found.rangeCount ? found.getRangeAt(0) : null;
    const texts = [...el.querySelectorAll(".poclab-text")];
    const passage = range ? texts.findIndex((text) => text.contains(range.commonAncestorContainer)) : -1;
    if (passage < 0) {
      // Over the border of a passage is no place; when somebody went on to a field, what was selected in a passage still holds.
      if (texts.some((text) => range?.intersectsNode(text))) selection = null;
      return;
    }
    const before = document.createRange();
    before.setStart(texts[passage], 0);
    before.setEnd(range.startContainer, range.startOffset);
    const start = length(before);
    selection = { passage, start, end: start + length(range) };
  }

  // What was typed last may wait in the browser while the kernel is busy. It is sent before the echo comes, so the echo is what acts.
  function ask(act) {
    select(); // the key may come before the browser has told of the selection
    origin = document.activeElement;
    waiting = [];
    form.setAttribute("aria-busy", "true");
    model.send({ act, selection, view, step: "ask" });
  }

  // What is typed while an action is under way belongs to what it opens: to the next answer, not to the one that is being saved.
  function soon(does) {
    if (waiting) waiting.push(does);
    else does();
  }

  function goOn() {
    const typed = waiting ?? [];
    waiting = null;
    form.setAttribute("aria-busy", "false");
    for (const does of typed) soon(does);
  }

  function onMessage(message) {
    // A first search takes its time: somebody who went on to a field meanwhile stays there.
    if (message.focus && document.activeElement === origin) el.querySelector(".poclab-text")?.focus();
    if (message.done === view) goOn();
    if (message.view === view) model.send({ ...message, step: "act" });
  }

  // What a key writes; nothing for one that means something else.
  function writes({ key, ctrlKey, metaKey, altKey }) {
    if (ctrlKey || metaKey || altKey) return null;
    if (key === "Backspace") return ["delete"];
    return key.length === 1 ? ["insertText", false, key] : null;
  }

  // Where the focus is when its turn comes says what Enter does: a key before it may have moved the focus.
  function enter() {
    if (document.activeElement.closest(".poclab-query")) ask("search");
    else document.execCommand("insertText", false, "\n");
  }

  // What a key does in the form; nothing for one that is the browser's.
  function meant(event) {
    const typed = !event.ctrlKey && !event.metaKey && !event.altKey;
    if (event.key === "Enter" && (event.target.closest(".poclab-query") || (waiting && typed))) return enter;
    const written = writes(event);
    if (written) return waiting && (() => document.execCommand(...written));
    if (!event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return null;
    // On a Mac Alt+S is a letter of its own.
    const key = (/^[a-z]$/i.test(event.key) ? event.key : event.code.replace("Key", "")).toLowerCase();
    const act = model.get("shortcuts")[key];
    const place = model.get("places")[key];
    if (act) return () => event.repeat || ask(act);
    return place && (() => form.querySelector(`.${place} :is(input, textarea)`)?.focus());
  }

  function onKey(event) {
    const does = meant(event);
    if (!does) return;
    event.preventDefault();
    event.stopPropagation();
    soon(does);
  }

  function onClick(event) {
    const button = event.target.closest("button");
    const name = [...(button?.classList ?? [])].find((one) => one.startsWith("poclab-act-"));
    if (!name) return;
    event.preventDefault();
    event.stopPropagation();
    soon(() => ask(name.slice("poclab-act-".length)));
  }

  // A letter means nothing to the notebook while the list or a button has the focus: there X would cut a cell.
  function keep(event) {
    if (!event.ctrlKey && !event.metaKey && !event.altKey) event.stopPropagation();
  }

  function leave() {
    form?.removeEventListener("keydown", onKey, true);
    form?.removeEventListener("keydown", keep);
    form?.removeEventListener("click", onClick, true);
  }

  // The form is there only once this view is put into it, and is laid out.
  const watcher = new ResizeObserver(() => {
    const found = el.closest(".poclab-labeler");
    if (!found || found === form) return;
    leave();
    form = found;
    form.addEventListener("keydown", onKey, true); // on the way down: fields of ipywidgets keep keys to themselves
    form.addEventListener("keydown", keep);
    form.addEventListener("click", onClick, true);
  });

  const refuse = (event) => event.preventDefault();
  el.classList.add("poclab-passages");
  el.tabIndex = -1;
  el.addEventListener("beforeinput", refuse);
  el.addEventListener("drop", refuse);
  el.addEventListener("compositionend", draw); // the one change that cannot be refused
  document.addEventListener("selectionchange", select);
  model.on("change:passages", draw);
  model.on("msg:custom", onMessage);
  watcher.observe(el);
  draw();

  return () => {
    leave();
    watcher.disconnect();
    document.removeEventListener("selectionchange", select);
    model.off("change:passages", draw);
    model.off("msg:custom", onMessage);
  };
}

export default { render };
