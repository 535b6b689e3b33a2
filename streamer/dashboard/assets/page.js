// The page's own script: texts that the server mails are put on the page, what a person does is mailed back.
// Text becomes textContent and nothing else: names from the network stay text.
"use strict";

const $ = (id) => document.getElementById(id);
const page = { mail: null, stream: null, number: 0, open: new Map(), lastNews: Date.now(), unlocked: false, readers: [] };

function make(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value === undefined || value === null) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined).map(
    (child) => (child instanceof Node ? child : document.createTextNode(String(child)))));
  return node;
}

// Ask the server; `then` gets its answer. Only the newest question of a kind waits for one.
function ask(request, then) {
  page.number += 1;
  if (then) page.open.set(page.number, then);
  if (page.open.size > 20) page.open.delete(page.open.keys().next().value);
  page.mail.ask = JSON.stringify({ number: page.number, stream: page.stream, ...request });
}

function answered(text) {
  const answer = JSON.parse(text);
  const then = page.open.get(answer.number);
  page.open.delete(answer.number);
  if (then) then(answer);
}

function pill(id, text, kind) {
  const node = $(id);
  if (node.textContent !== text) node.textContent = text;
  node.className = `pill ${kind}`;
}

function showRun(run) {
  page.lastNews = Date.now();
  $("run").textContent = run.title;
  $("uptime").textContent = run.uptime;
  pill("state", run.state.text, run.state.kind);
  pill("closes", run.closes.text, run.closes.kind);
  pill("storing", run.storing.text, run.storing.kind);
  $("alarm").hidden = !run.alarm;
  if ($("alarm").textContent !== run.alarm) $("alarm").textContent = run.alarm;
  for (const tab of document.querySelectorAll("[role=tab]")) {
    tab.querySelector(".rate").textContent = run.rates[tab.dataset.stream] ?? "";
  }
}

function showTiles(tiles) {
  const list = $("tiles");
  if (list.children.length !== tiles.tiles.length) {
    list.replaceChildren(...tiles.tiles.map(() => make("div", { class: "tile" }, make("dt"), make("dd"))));
  }
  tiles.tiles.forEach((tile, i) => {
    const node = list.children[i];
    node.className = `tile ${tile.kind}`;
    node.firstChild.textContent = tile.name;
    node.lastChild.replaceChildren(tile.value, make("small", {}, tile.more));
  });
  $("note").textContent = tiles.note;
  $("about-latent").textContent = tiles.latent;
  options($("colour-by"), tiles.colour_by.choices, tiles.colour_by.now);
}

function options(select, choices, now) {
  const key = JSON.stringify(choices);
  if (select.dataset.key !== key) {
    select.dataset.key = key;
    select.replaceChildren(...choices.map(([value, text]) => make("option", { value }, text)));
    select.value = now;
  }
}

function table(rows, head) {
  const body = rows.map((row) => make("tr", { class: row.kind }, make("th", { scope: "row" }, row.name),
    ...row.cells.map((cell) => make("td", { class: typeof cell === "number" ? "n" : null },
      typeof cell === "number" ? cell.toLocaleString("en") : cell))));
  const top = head ? make("thead", {}, make("tr", {}, ...head.map((h) => make("th", { scope: "col" }, h)))) : null;
  return make("table", {}, top, make("tbody", {}, ...body));
}

function showLedger(ledger) {
  const scroll = $("ledger").firstElementChild?.scrollTop ?? 0;
  $("ledger").replaceChildren(make("div", { class: "scroll", tabindex: 0, role: "region",
    "aria-label": "Ledger" }, table(ledger.rows)));
  $("ledger").firstElementChild.scrollTop = scroll;
}

function showJournal(journal) {
  const text = make("p", { class: "quiet" }, journal.note);
  const rows = journal.rows.length ? make("div", { class: "scroll", tabindex: 0, role: "region",
    "aria-label": "Journal" }, table(journal.rows, ["time", "who", "stream", "what", "before", "after"])) : null;
  $("journal").replaceChildren(...[text, rows].filter(Boolean));
}

// Pictures keep their place and their keyboard focus while newer ones come: buttons are reused in order.
function showGallery(gallery) {
  $("about-gallery").textContent = gallery.note;
  const host = $("gallery");
  while (host.children.length > gallery.rows.length) host.lastChild.remove();
  gallery.rows.forEach((row, i) => {
    if (!host.children[i]) host.append(make("div", {}, make("h3"), make("div", { class: "shots" })));
    const [title, shots] = host.children[i].children;
    title.textContent = row.name;
    while (shots.children.length > row.shots.length) shots.lastChild.remove();
    row.shots.forEach((shot, j) => {
      if (!shots.children[j]) shots.append(newShot());
      fillShot(shots.children[j], shot);
    });
  });
}

function newShot() {
  return make("button", { type: "button", onclick: (event) => openDetail(event.currentTarget.dataset) },
    make("img", { alt: "" }), make("span"));
}

function fillShot(button, shot) {
  if (button.dataset.key === shot.src) return;
  button.dataset.key = shot.src;
  button.dataset.train = shot.train;
  button.dataset.pulse = shot.pulse;
  button.className = `shot ${shot.form}`;
  button.setAttribute("aria-label", shot.text);
  button.title = shot.text;
  button.firstChild.src = shot.src;
  button.lastChild.textContent = shot.caption;
}

function openDetail(event) {
  const [train, pulse] = [event.train, event.pulse];
  Object.assign($("detail").dataset, { train, pulse });
  $("log-scale").setAttribute("aria-pressed", "false");
  $("detail-said").textContent = "";
  $("detail-title").textContent = `Train ${train}, pulse ${pulse}`;
  $("detail-facts").replaceChildren("…");
  if (!$("detail").open) $("detail").showModal();
  ask({ do: "detail", train, pulse }, showDetail);
}

function showDetail(answer) {
  if (!answer.ok) return say("detail-said", answer);
  $("detail-facts").replaceChildren(...answer.parts.flatMap(
    (part) => [make("h3", {}, part.title), table(part.rows)]));
  options($("explain-class"), answer.classes, answer.class_now);
  $("explain-class").value = answer.class_now;
  $("explain-label").hidden = $("explain").hidden = !answer.classes.length;
  say("detail-said", answer);
}

function say(id, answer) {
  $(id).textContent = answer.text ?? "";
  $(id).className = answer.ok ? "good" : "bad";
}

function choose(stream, focus) {
  page.stream = stream;
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const chosen = tab.dataset.stream === stream;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    if (chosen) $("main").setAttribute("aria-labelledby", tab.id);
    if (chosen && focus) tab.focus();
  }
  for (const plot of document.querySelectorAll(".plot[data-stream]")) plot.hidden = plot.dataset.stream !== stream;
  for (const id of ["gallery", "ledger", "steering", "tiles"]) $(id).replaceChildren();
  $("said").textContent = "";
  $("colour-by").dataset.key = "";
  // A letter that reads as before is not sent again: what was cleared is written from the ones that are here.
  if (page.mail) ask({ do: "show" }, () => page.readers.forEach((read) => read()));
}

function arrows(event) {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const at = tabs.indexOf(event.target);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
  if (at < 0 || to === undefined) return;
  event.preventDefault();
  choose(tabs[(to + tabs.length) % tabs.length].dataset.stream, true);
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  $("theme").textContent = theme === "dark" ? "Light" : "Dark";
  $("theme").setAttribute("aria-pressed", String(theme === "dark"));
  if (page.mail) ask({ do: "theme", theme });
}

function showAccess(access) {
  page.unlocked = access.unlocked;
  $("lock").textContent = access.unlocked ? "Lock steering" : "Unlock steering";
  $("about-steering").textContent = access.text;
  document.body.classList.toggle("unlocked", access.unlocked);
  window.steering.setUnlocked(access.unlocked);
}

function unlock(event) {
  event.preventDefault();
  const token = $("token").value;
  $("token").value = "";
  ask({ do: "unlock", token }, (answer) => {
    $("unlock-said").textContent = answer.ok ? "" : answer.text;
    if (answer.ok) $("unlock").close();
    else $("token").focus();
  });
}

// A server that went away: ask until one answers, then load the page anew.
async function watch() {
  if (Date.now() - page.lastNews < 5000) return;
  pill("state", "page not connected", "bad");
  $("alarm").hidden = false;
  $("alarm").textContent = "This page has lost its server. The stream goes on without it; the page comes back by itself.";
  try {
    const answer = await fetch("/alive", { cache: "no-store" });
    if (answer.ok) location.reload();
  } catch { /* asked again in a moment */ }
}

function listen(name, show) {
  const read = () => {
    const content = page.mail[name] ? JSON.parse(page.mail[name]) : null;
    // What was on its way when another tab was opened is of the stream of the old one.
    if (content && (content.stream ?? page.stream) === page.stream) show(content);
  };
  page.mail.properties[name].change.connect(read);
  page.readers.push(read);
}

function connect() {
  const mail = window.Bokeh?.documents?.[0]?.get_model_by_name("mail")?.tags[0];
  if (!mail) return void setTimeout(connect, 50);
  page.mail = mail;
  mail.properties.answer.change.connect(() => answered(mail.answer));
  listen("run", showRun);
  listen("tiles", showTiles);
  listen("ledger", showLedger);
  listen("gallery", showGallery);
  listen("journal", showJournal);
  listen("access", showAccess);
  listen("steering", window.steering.show);
  setTheme(document.documentElement.dataset.theme);
  choose(page.stream);
  setInterval(watch, 2000);
  document.body.dataset.ready = "yes";
}

function start() {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  setTheme(localStorage.getItem("theme") ?? (dark.matches ? "dark" : "light"));
  const first = document.querySelector("[role=tab]");
  page.stream = decodeURIComponent(location.hash.slice(1));
  if (![...document.querySelectorAll("[role=tab]")].some((tab) => tab.dataset.stream === page.stream)) {
    page.stream = first.dataset.stream;
  }
  for (const tab of document.querySelectorAll("[role=tab]")) {
    tab.addEventListener("click", () => choose(tab.dataset.stream, true));
    tab.addEventListener("keydown", arrows);
  }
  $("theme").addEventListener("click", () => {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    localStorage.setItem("theme", theme);
    setTheme(theme);
  });
  $("lock").addEventListener("click", () => {
    if (page.unlocked) return ask({ do: "lock" });
    $("unlock-said").textContent = "";
    $("unlock").showModal();
    $("token").focus();
  });
  $("unlock-form").addEventListener("submit", unlock);
  $("unlock-close").addEventListener("click", () => $("unlock").close());
  $("detail-close").addEventListener("click", () => $("detail").close());
  $("colour-by").addEventListener("change", (event) => ask({ do: "colour", by: event.target.value }));
  $("log-scale").addEventListener("click", () => {
    const on = $("log-scale").getAttribute("aria-pressed") !== "true";
    $("log-scale").setAttribute("aria-pressed", String(on));
    ask({ do: "scale", log: on });
  });
  $("explain").addEventListener("click", () => {
    const { train, pulse } = $("detail").dataset;
    say("detail-said", { ok: true, text: "Asking the network, some seconds…" });
    ask({ do: "explain", train, pulse, class: $("explain-class").value }, (answer) => say("detail-said", answer));
  });
  connect();
}

start();
