"use strict";
// Everything shown comes from untrusted text: elements are made by name, and text is set as text, never as HTML.

const byId = (id) => document.getElementById(id);

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

// ---- Tables: a heading sorts by its column, largest first, then smallest.

function sortBy(heading) {
  const row = heading.parentElement;
  const table = row.closest("table");
  const column = [...row.children].indexOf(heading);
  const descending = heading.getAttribute("aria-sort") !== "descending";
  for (const other of row.children) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const value = (line) => parseFloat(line.children[column].dataset.value);
  const lines = [...table.tBodies[0].rows];
  lines.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
    return descending ? y - x : x - y;
  });
  table.tBodies[0].append(...lines);
}

for (const button of document.querySelectorAll(".sortable .sort")) {
  button.addEventListener("click", () => sortBy(button.closest("th")));
}

// ---- Contents: the section being read is marked.

function followReading() {
  const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.hash.slice(1), a]));
  const seen = new Set();
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) seen[entry.isIntersecting ? "add" : "delete"](entry.target.id);
    const current = [...links.keys()].find((id) => seen.has(id));
    if (!current) return;
    for (const [id, link] of links) {
      if (id === current) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }, { rootMargin: "-5% 0px -70% 0px" });
  for (const id of links.keys()) watcher.observe(byId(id));
}
followReading();

// ---- Paper: what is folded away is opened, and folded again.

let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const one of opened) one.open = true;
});
addEventListener("afterprint", () => {
  for (const one of opened) one.open = false;
});

// ---- Boxes that scroll sideways say so.

function markScrolling() {
  for (const box of document.querySelectorAll(".scroll")) box.classList.toggle("wider", box.scrollWidth > box.clientWidth + 1);
}
addEventListener("resize", markScrolling);
document.addEventListener("toggle", markScrolling, true);
markScrolling();

// ---- The command to copy.

byId("copy")?.addEventListener("click", async (event) => {
  const source = byId(event.target.dataset.copies);
  try {
    await navigator.clipboard.writeText(source.textContent);
    event.target.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(source);  // without leave to copy, the reader's own keys will do
    event.target.textContent = "Selected";
  }
});

// ---- Samples.

const SVG = document.querySelector("svg").namespaceURI;
const PAGE = 5;
const LONG = 900;  // characters of a response shown at once

function showSamples(data) {
  const controls = { search: byId("search"), order: byId("order"), method: byId("method"), outcome: byId("outcome"), seed: byId("seed") };
  const contestants = data.methods.filter((name) => name !== data.baseline);
  const judged = data.prompts.some((prompt) => Object.values(prompt.answers).some((seeds) => Object.values(seeds).some((a) => "gold" in a)));
  const against = judged && data.methods.includes(data.baseline) && contestants.length > 0;
  let page = 0;

  const options = (select, pairs) => {
    for (const [value, text] of pairs) {
      const option = make("option", "", text);
      option.value = value;
      select.append(option);
    }
    select.closest("label").hidden = pairs.length < 2;
  };
  options(controls.order, [
    ...(judged ? [["spread", "biggest disagreement first"], ["best", "best of the method first"], ["worst", "worst of the method first"]] : []),
    ["data", "as in the data"], ["long", "longest of the method first"],
  ]);
  options(controls.method, (contestants.length ? contestants : data.methods).map((name) => [name, name]));
  options(controls.outcome, [
    ["any", "any"],
    ...(against ? [["win", `more gold than ${data.baseline}`], ["tie", `as much gold as ${data.baseline}`], ["loss", `less gold than ${data.baseline}`]] : []),
    ["open", "did not end"],
  ]);
  options(controls.seed, data.seeds.map((seed) => [seed, seed]));
  const boxes = data.methods.map((name) => {
    const label = make("label");
    const box = make("input");
    box.type = "checkbox";
    box.checked = true;
    box.value = name;
    label.append(box, chip(name));
    byId("shown").append(label);
    return box;
  });

  function chip(name) {
    const [colour, mark] = Object.hasOwn(data.styles, name) ? data.styles[name] : ["", "circle"];
    const element = make("span", `chip ${colour}`);
    const drawn = document.createElementNS(SVG, "svg");
    const use = document.createElementNS(SVG, "use");
    drawn.setAttribute("class", "mark");
    drawn.setAttribute("aria-hidden", "true");
    use.setAttribute("href", `#mark-${mark}`);
    drawn.append(use);
    const text = make("span", "name", name);
    text.dir = "auto";
    text.title = name;
    element.append(drawn, text);
    return element;
  }

  // The answer with the chosen seed; a method trained with other seeds shows its first.
  const answer = (prompt, name) => {
    const seeds = prompt.answers[name];
    return seeds[controls.seed.value] ?? seeds[data.seeds.find((seed) => seed in seeds)];
  };
  const gold = (prompt, name) => answer(prompt, name)?.gold;

  function spread(prompt) {
    const values = data.methods.map((name) => gold(prompt, name)).filter((value) => value !== undefined);
    return values.length ? Math.max(...values) - Math.min(...values) : 0;
  }

  function outcome(prompt, name) {
    const [own, other] = [gold(prompt, name), gold(prompt, data.baseline)];
    if (own === undefined || other === undefined) return "none";
    return own > other ? "win" : own < other ? "loss" : "tie";
  }

  function chosen() {
    const name = controls.method.value;
    const words = controls.search.value.toLowerCase();
    const wanted = controls.outcome.value;
    const found = data.prompts.filter((prompt) => {
      if (wanted === "open" ? answer(prompt, name)?.ended !== false : wanted !== "any" && outcome(prompt, name) !== wanted) return false;
      if (!words || prompt.text.toLowerCase().includes(words)) return true;
      return data.methods.some((method) => answer(prompt, method)?.text.toLowerCase().includes(words));
    });
    const keys = {
      spread: (prompt) => -spread(prompt),
      best: (prompt) => -(gold(prompt, name) ?? -Infinity),
      worst: (prompt) => gold(prompt, name) ?? Infinity,
      long: (prompt) => -(answer(prompt, name)?.length ?? 0),
      data: (prompt) => prompt.at,
    };
    const key = keys[controls.order.value];
    return found.map((prompt) => [key(prompt), prompt]).sort((a, b) => a[0] - b[0] || a[1].at - b[1].at).map((pair) => pair[1]);
  }

  function answerCard(given, name, tag) {
    const card = make("div", "answer");
    const header = make("header");
    header.append(chip(name));
    if (tag) header.append(make("span", `tag ${tag}`, tag));
    const response = make("div", "response", given.text || "(empty)");
    response.dir = "auto";
    card.append(header, response);
    if (given.text.length > LONG) {
      const more = make("button", "more", "Show all");
      more.type = "button";
      response.classList.add("short");
      more.setAttribute("aria-expanded", "false");
      more.addEventListener("click", () => {
        const short = response.classList.toggle("short");
        more.textContent = short ? "Show all" : "Show less";
        more.setAttribute("aria-expanded", String(!short));
      });
      card.append(more);
    }
    const numbers = make("div", "numbers");
    const shown = [["gold", "gold", 2], ["proxy", "proxy", 2], ["kl", "KL", 2], ["length", "tokens", 0]];
    for (const [key, label, digits] of shown) {
      if (key in given) numbers.append(make("span", "", `${label} ${given[key].toFixed(digits).replace("-", "−")}`));
    }
    if (!given.ended) numbers.append(make("span", "", "cut at the length limit"));
    card.append(numbers);
    return card;
  }

  function promptCard(prompt) {
    const card = make("article", "card");
    const text = make("div", "prompt", prompt.text);
    text.dir = "auto";
    const names = boxes.filter((box) => box.checked && answer(prompt, box.value)).map((box) => box.value);
    const golds = names.map((name) => gold(prompt, name)).filter((value) => value !== undefined);
    const [best, worst] = [Math.max(...golds), Math.min(...golds)];
    const tag = (value) => golds.length < 2 || best === worst ? "" : value === best ? "best" : value === worst ? "worst" : "";
    const answers = make("div", "answers");
    for (const name of names) answers.append(answerCard(answer(prompt, name), name, tag(gold(prompt, name))));
    const apart = judged ? `, gold rewards ${spread(prompt).toFixed(2)} apart` : "";
    card.append(make("header", "", `Prompt ${prompt.at + 1}${apart}`), text, answers);
    return card;
  }

  function show() {
    const found = chosen();
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    const cards = found.slice(page * PAGE, (page + 1) * PAGE).map(promptCard);
    byId("cards").replaceChildren(...(cards.length ? cards : [make("p", "empty", "No sample fits these filters.")]));
    const count = `${found.length} prompt${found.length === 1 ? "" : "s"}`;
    byId("place").textContent = pages > 1 ? `${page + 1} of ${pages} pages, ${count}` : count;
    byId("previous").disabled = page === 0;
    byId("next").disabled = page === pages - 1;
  }

  const restart = () => { page = 0; show(); };
  byId("controls").addEventListener("input", restart);
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  const turn = (by) => { page += by; show(); byId("cards").scrollIntoView(); };
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  show();
}

const samples = byId("data");
if (samples) showSamples(JSON.parse(samples.textContent));
