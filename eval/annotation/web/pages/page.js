"use strict";
// Keys for the buttons of the form. Without this script the buttons do all.
{
  const form = document.getElementById("verdict");
  const buttons = [...form.querySelectorAll("button")];
  const wanted = form.querySelector("#keys input");
  const KEPT = "preflab-annotate-keys";
  // A key held down, or struck twice, must not judge the next pair unread.
  const PAUSE = 300;
  let sent = false;

  form.addEventListener("submit", (event) => {
    if (sent) event.preventDefault();
    sent = true;
  });
  // Back from the next page, by the browser's own button: what is shown may be judged by now, and is asked for anew.
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

  const kept = (value) => {
    try {
      if (value !== undefined) localStorage.setItem(KEPT, value);
      return localStorage.getItem(KEPT);
    } catch { return null; }  // a browser that keeps nothing
  };
  wanted.checked = kept() !== "off";
  wanted.addEventListener("change", () => kept(wanted.checked ? "on" : "off"));
  form.querySelector("#keys").hidden = false;

  const pressed = (event) => {
    if (!wanted.checked || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.target.closest("textarea, input:not([type=checkbox]), select")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const button = buttons.find((one) => (one.dataset.keys ?? "").split(" ").includes(key) && !one.disabled);
    if (!button) return;
    event.preventDefault();
    form.requestSubmit(button);
  };
  setTimeout(() => {
    addEventListener("keydown", pressed);
    document.body.dataset.keys = "ready";
  }, PAUSE);
}
