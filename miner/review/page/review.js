"use strict";
// Every text of the store goes in as text (textContent), never as markup.

const $ = (id) => document.getElementById(id);
const FOLD = 900; // characters of a text that are shown at once
const COMMON = new Set(("the and for are was were with that this from not but you your how what when where which who why " +
  "can does did has have had its his her our out into about than then them they will would there their any been under over well " +
  "also such both all each more most other some very one two various").split(" "));
const UNSPACED = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}]/u;
const SAID = { "relevant": "Relevant", "not relevant": "Not relevant", "unsure": "Unsure" };

let reviewer = "", state = null, item = null, busy = false, shown = 0, away = 0, hiddenSince = 0;
let ahead = null; // the pair that comes next, fetched while a person reads

function el(tag, values = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(values)) {
    if (name === "class") made.className = value;
    else if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

async function call(path, values, post = false) {
  let response;
  try {
    response = post
      ? await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(values) })
      : await fetch(values ? `${path}?${new URLSearchParams(values)}` : path);
  } catch {
    throw new Error("The server does not answer. What you answered so far is stored: start miner review again, and open the new address.");
  }
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

function problem(error) {
  $("problem").textContent = error.message;
  $("problem").hidden = false;
}

// One request at a time; a key that is pressed meanwhile does nothing.
async function work(doing) {
  if (busy) return;
  busy = true;
  try {
    await doing();
    $("problem").hidden = true;
  } catch (error) {
    problem(error);
  } finally {
    busy = false;
  }
}

// --- words in common

function tokens(text) {
  const found = [];
  for (const match of text.matchAll(/[\p{L}\p{M}\p{N}_]+/gu)) {
    const word = match[0], start = match.index;
    if (!UNSPACED.test(word)) {
      found.push([start, start + word.length, word.normalize("NFKC").toLowerCase()]);
      continue;
    }
    const letters = Array.from(word);
    let at = start;
    for (let i = 0; i + 1 < letters.length; i++) {
      const pair = letters[i] + letters[i + 1];
      found.push([at, at + pair.length, pair.normalize("NFKC")]);
      at += letters[i].length;
    }
  }
  return found;
}

function wordsOf(query) {
  const words = new Set();
  for (const [, , word] of tokens(query)) {
    if (!COMMON.has(word) && (word.length > 2 || UNSPACED.test(word) || /\p{N}/u.test(word))) words.add(word);
  }
  return words;
}

function marked(node, text, words) {
  node.replaceChildren();
  let end = 0;
  for (const [start, stop, word] of tokens(text)) {
    if (!words.has(word)) continue;
    if (start > end) node.append(text.slice(end, start));
    if (stop > end) node.append(el("mark", { text: text.slice(Math.max(start, end), stop) }));
    end = Math.max(end, stop);
  }
  node.append(text.slice(end));
  return node;
}

// --- one pair

function documentNodes(one, words, level) {
  const nodes = [];
  if (one.title) nodes.push(marked(el(level, { class: "title", dir: "auto" }), one.title, words));
  if (!one.text && !one.title) nodes.push(el("p", { class: "empty", text: "This text is no longer in the store." }));
  if (one.text) {
    const text = marked(el("div", { class: "text", dir: "auto" }), one.text, words);
    nodes.push(text);
    if (one.text.length > FOLD) {
      text.classList.add("folded");
      const size = one.text.trim().split(/\s+/).length.toLocaleString("en");
      const more = el("button", { type: "button", class: "unfold", "aria-expanded": "false", text: `Show all ${size} words` });
      more.addEventListener("click", () => {
        const folded = text.classList.toggle("folded");
        more.setAttribute("aria-expanded", String(!folded));
        more.textContent = folded ? `Show all ${size} words` : "Show less";
      });
      nodes.push(more);
    }
  }
  nodes.push(el("p", { class: "id", text: one.doc_id }));
  return nodes;
}

function figure(value) {
  return value === null || value === undefined ? "–" : Math.abs(value) >= 100 ? value.toFixed(1) : value.toPrecision(3);
}

function machineWords(found) {
  const reason = found.reason ? ` by the rule ${found.reason.replaceAll("_", " ")}` : "";
  return found.verdict === "suspected" ? `Suspected to be relevant${reason}.` : `Selected as a negative${reason}.`;
}

function renderMachine() {
  $("machine").hidden = !item.machine;
  $("scores").replaceChildren();
  if (!item.machine) return;
  $("machine-says").textContent = `${machineWords(item.machine)} Group: ${item.machine.group}.`;
  if (!item.machine.scores.length) return;
  $("scores").append(el("tr", {}, el("th", { scope: "col", text: "scorer" }), el("th", { scope: "col", class: "number", text: "score" }),
    el("th", { scope: "col", class: "number", text: "rank" }), el("th", { scope: "col", class: "number", text: "positives" })));
  for (const one of item.machine.scores) {
    const range = one.low === one.high ? figure(one.low) : `${figure(one.low)} to ${figure(one.high)}`;
    $("scores").append(el("tr", {}, el("td", { text: one.scorer }), el("td", { class: "number", text: figure(one.score) }),
      el("td", { class: "number", text: one.rank ?? "–" }), el("td", { class: "number", text: range })));
  }
}

function renderState() {
  $("run").textContent = state.run;
  $("who").textContent = reviewer || "Name";
  const of = state.of.toLocaleString("en"), answered = state.answered.toLocaleString("en");
  $("count").textContent = `${answered} of ${of} answered`;
  $("track").setAttribute("aria-valuemax", state.of);
  $("track").setAttribute("aria-valuenow", state.answered);
  $("fill").style.width = `${100 * state.answered / Math.max(1, state.of)}%`;
  $("names").replaceChildren(...state.reviewers.map((name) => el("option", { value: name })));
}

function renderItem() {
  const words = wordsOf(item.query);
  $("query").textContent = item.query || "This query is no longer in the store.";
  $("positives-count").textContent = `(${item.positives_of})`;
  $("positives").replaceChildren(...item.positives.map((one) => el("li", {}, ...documentNodes(one, words, "h3"))));
  if (item.positives_of > item.positives.length) {
    $("positives").append(el("li", { class: "note", text: `${item.positives_of - item.positives.length} more are not shown.` }));
  }
  $("candidate").replaceChildren(...documentNodes(item, words, "h3"));
  renderAnswer();
}

function renderAnswer() {
  for (const button of document.querySelectorAll("[data-answer]")) {
    button.setAttribute("aria-pressed", String(button.dataset.answer === item?.answer));
    button.disabled = !item;
  }
  if (item) renderMachine();
}

async function show(at, said = "") {
  if (at === null) {
    item = null;
    $("main").hidden = true;
    $("done").hidden = false;
    renderAnswer();
    say(said, "Every pair has your answer.");
    $("done").focus({ preventScroll: true });
    return;
  }
  const early = ahead && ahead.at === at && ahead.reviewer === reviewer ? await ahead.item : null;
  item = early && !early.answer && !said.startsWith("Undone") ? early : await call("/api/item", { at, reviewer });
  ahead = null;
  $("done").hidden = true;
  $("main").hidden = false;
  renderItem();
  window.scrollTo(0, 0);
  $("query").focus({ preventScroll: true });
  shown = performance.now();
  away = 0;
  $("back").disabled = at === 0;
  $("on").disabled = at + 1 >= state.of;
  if (at + 1 < state.of) ahead = { at: at + 1, reviewer, item: call("/api/item", { at: at + 1, reviewer }).catch(() => null) };
  say(said, `Candidate ${(at + 1).toLocaleString("en")} of ${state.of.toLocaleString("en")}${item.answer ? `, answered: ${item.answer}` : ""}.`);
}

function say(said, where) {
  $("status").textContent = [where, said].filter(Boolean).join(" ");
  $("live").textContent = [said, where].filter(Boolean).join(" ");
}

// --- what a person does

const answer = (value) => work(async () => {
  if (!item) return;
  const seconds = (performance.now() - shown - away) / 1000;
  const at = item.at;
  state = await call("/api/answer", { at, answer: value, reviewer, seconds }, true);
  renderState();
  const said = `Saved: ${SAID[value].toLowerCase()}. ${machineWords(state.machine)}`;
  if ($("go-on").checked) {
    await show(state.next, said);
  } else {
    item.answer = value;
    item.machine = state.machine;
    renderAnswer();
    say(said, `Candidate ${(at + 1).toLocaleString("en")} of ${state.of.toLocaleString("en")}.`);
  }
});

const undo = () => work(async () => {
  state = await call("/api/undo", { reviewer }, true);
  renderState();
  if (state.at === null) say("", "There is nothing to undo.");
  else await show(state.at, "Undone.");
});

const move = (step) => work(async () => {
  const at = item ? item.at + step : state.of - 1;
  if (at >= 0 && at < state.of) await show(at);
});

const jump = (at, dialog) => work(async () => {
  dialog.close();
  await show(at);
});

function askName() {
  $("name").value = reviewer;
  $("name-problem").hidden = true;
  $("name-dialog").showModal();
  $("name").select();
}

$("name-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = $("name").value;
  work(async () => {
    try {
      state = await call("/api/state", { reviewer: name });
    } catch (error) {
      $("name-problem").textContent = error.message;
      $("name-problem").hidden = false;
      return;
    }
    reviewer = state.reviewer;
    $("name-dialog").close();
    renderState();
    await show(state.next);
  });
});
$("name-dialog").addEventListener("cancel", (event) => { if (!reviewer) event.preventDefault(); });

function openSearch() {
  $("found").replaceChildren();
  $("found-count").textContent = "";
  $("search-dialog").showModal();
  $("search").select();
}

$("search-form").addEventListener("submit", (event) => {
  event.preventDefault();
  work(async () => {
    const found = await call("/api/find", { text: $("search").value, reviewer });
    $("found-count").textContent = found.length ? `${found.length} pairs${found.length === 50 ? ", the first of more" : ""}` : "Nothing in the queue contains that.";
    $("found").replaceChildren(...found.map((one) => el("li", {}, el("button", { type: "button", onclick: () => jump(one.at, $("search-dialog")) },
      one.query, el("small", { text: one.document }), el("small", { text: one.answer ? `${one.at + 1}: ${one.answer}` : `${one.at + 1}` })))));
  });
});

const percent = (share) => `${(100 * share).toFixed(1)} %`;

const openFigures = () => work(async () => {
  const found = await call("/api/summary");
  const head = ["", "pairs", "reviewed", "undecided", "relevant", "95 % interval"];
  const table = el("table", {}, el("tr", {}, ...head.map((name, n) => el("th", { scope: "col", class: n ? "number" : "", text: name }))));
  for (const group of found.groups) {
    const rate = group.relevant;
    const cells = [group.pairs, group.reviewed, group.undecided, rate.rate === null ? "–" : `${rate.hits} of ${rate.of} (${percent(rate.rate)})`,
      rate.rate === null ? "–" : `${percent(rate.low)} to ${percent(rate.high)}`];
    table.append(el("tr", {}, el("th", { scope: "row", text: group.name }), ...cells.map((cell) => el("td", { class: "number", text: cell.toLocaleString("en") }))));
  }
  const parts = [
    el("p", { text: `${found.reviewed.toLocaleString("en")} of ${found.pairs.toLocaleString("en")} pairs reviewed, in ${found.reviewed_queries.toLocaleString("en")} of ${found.queries.toLocaleString("en")} queries.` }),
    el("p", { text: Object.entries(found.reviewers).map(([name, number]) => `${name}: ${number}`).join(", ") }),
    el("div", { class: "scroll" }, table),
    ...found.groups.map((group) => el("p", { class: "note", text: `${group.name}: ${group.means}` })),
  ];
  if (found.agreement) {
    const one = found.agreement;
    const interval = one.low === null ? "" : ` (${one.low.toFixed(2)} to ${one.high.toFixed(2)})`;
    const value = one.value === null ? "is not defined yet" : `${one.value.toFixed(2)}${interval}`;
    parts.push(el("h3", { text: "Agreement" }), el("p", { text: `${one.measure} ${value}, over ${one.units} pairs that at least two people decided.` }));
  }
  if (found.conflicts.length) {
    const list = found.conflicts.slice(0, 50).map((one) => el("li", {}, el("button", { type: "button", onclick: () => jump(one.at, $("figures-dialog")) },
      `${one.query_id} · ${one.doc_id}`, el("small", { text: Object.entries(one.answers).map(([name, said]) => `${name}: ${said}`).join(", ") }))));
    parts.push(el("h3", { text: `Conflicts (${found.conflicts.length})` }), el("ul", { class: "list" }, ...list));
  }
  $("figures").replaceChildren(...parts);
  $("figures-dialog").showModal();
});

const openHelp = () => $("help-dialog").showModal();

for (const button of document.querySelectorAll("[data-answer]")) button.addEventListener("click", () => answer(button.dataset.answer));
for (const button of document.querySelectorAll(".close")) button.addEventListener("click", () => button.closest("dialog").close());
$("undo").addEventListener("click", undo);
$("back").addEventListener("click", () => move(-1));
$("on").addEventListener("click", () => move(1));
$("who").addEventListener("click", askName);
$("open-search").addEventListener("click", openSearch);
$("open-figures").addEventListener("click", openFigures);
$("open-help").addEventListener("click", openHelp);

const KEYS = {
  "1": () => answer("relevant"), "2": () => answer("not relevant"), "3": () => answer("unsure"),
  "u": undo, "j": () => move(1), "k": () => move(-1), "/": openSearch, "?": openHelp,
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.repeat) return;
  if (document.querySelector("dialog[open]") || !reviewer) return;
  const doing = KEYS[event.key.toLowerCase()];
  if (!doing) return;
  event.preventDefault();
  doing();
});

document.addEventListener("visibilitychange", () => {
  if (document.hidden) hiddenSince = performance.now();
  else if (hiddenSince) away += performance.now() - Math.max(hiddenSince, shown);
});

if (window.matchMedia("(max-width: 40rem)").matches) $("positives-box").open = false;
if (location.search) history.replaceState(null, "", "/"); // the token stays out of the address bar

work(async () => {
  state = await call("/api/start");
  renderState();
  if (!state.reviewer) return askName();
  reviewer = state.reviewer;
  state = await call("/api/state", { reviewer });
  renderState();
  await show(state.next);
});
