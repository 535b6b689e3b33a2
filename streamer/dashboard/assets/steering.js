// The steering card: what is set now, sliders with a preview, and the answer or refusal to each action.
"use strict";

window.steering = (() => {
  let shown = null;
  let previewing = null;
  let waiting = null;

  function locked() { return !page.unlocked; }

  function short(value) { return Number(Number(value).toPrecision(4)); }

  function act(change, words) {
    say("said", { ok: true, text: `${words} …` });
    ask(change, (answer) => say("said", answer));
  }

  // One preview under way, and the newest wish after it: a slider asks faster than anybody answers.
  function preview(request, node) {
    waiting = { request, node };
    if (previewing) return;
    const next = () => {
      if (!waiting) { previewing = null; return; }
      const { request: now, node: where } = waiting;
      waiting = null;
      previewing = setTimeout(next, 3000);  // an answer that never comes
      ask({ do: "preview", ...now }, (answer) => {
        clearTimeout(previewing);
        where.textContent = answer.text ?? "";
        setTimeout(next, 120);
      });
    };
    next();
  }

  function slider(route, constant, row) {
    const id = `s-${route.name}-${constant.index}`;
    const number = make("input", { type: "number", step: "any", value: short(constant.value),
      "aria-label": `${constant.left} ${constant.operator}, value` });
    const range = make("input", { type: "range", id, min: constant.low, max: constant.high, step: constant.step,
      value: constant.value });
    const moved = (value) => {
      row.values[constant.index] = value;
      row.apply.disabled = locked();
      row.undo.disabled = false;
      preview({ route: route.name, values: row.values }, row.keeps);
    };
    range.addEventListener("input", () => { number.value = range.value; moved(Number(range.value)); });
    number.addEventListener("input", () => {
      if (number.value === "") return;
      range.value = number.value;
      moved(Number(number.value));
    });
    const label = constant.name ? `${constant.left} ${constant.operator} ${constant.name}` :
      `${constant.left} ${constant.operator}`;
    return make("div", { class: "slide" }, make("label", { for: id }, label), range, number);
  }

  function routeRow(route) {
    const row = { values: {} };
    row.keeps = make("span", { class: "keeps", role: "status", "aria-live": "polite" });
    row.apply = make("button", { type: "button", class: "main", disabled: true,
      onclick: () => act({ do: "route", route: route.name, values: row.values }, `Changing ${route.name}`) }, "Apply");
    row.undo = make("button", { type: "button", disabled: true, onclick: () => rebuild() }, "Undo");
    const toggle = make("button", { type: "button", role: "switch", "aria-checked": String(route.enabled),
      disabled: locked(), onclick: () => act({ do: "enable", route: route.name, enabled: !route.enabled },
        `${route.enabled ? "Disabling" : "Enabling"} ${route.name}`) }, route.enabled ? "On" : "Off");
    const rule = make("code", {}, route.rule);
    const turn = route.constants.length ? make("span", { class: "turn" }, row.keeps, row.apply, row.undo) : null;
    const head = make("div", { class: "line" }, make("strong", {}, route.name), toggle, rule,
      make("span", { class: "quiet" }, route.kept), turn);
    const slides = route.constants.map((constant) => slider(route, constant, row));
    return make("div", { class: `route ${route.enabled ? "" : "off"}`, "data-route": route.name }, head, ...slides);
  }

  function clusters(data) {
    const name = make("input", { type: "text", maxlength: 40, size: 14, placeholder: "rings", disabled: locked(),
      "aria-label": "Name of the cluster" });
    const number = make("input", { type: "number", min: 0, step: 1, style: "width:6rem", disabled: locked(),
      "aria-label": "Number of the cluster" });
    const give = make("button", { type: "button", disabled: locked(), onclick: () => act({ do: "cluster",
      name: name.value, of: number.value === "" ? null : Number(number.value) }, "Naming") }, "Name it");
    const list = Object.entries(data.clusters).map(([text, value]) => make("div", { class: "field" },
      make("code", {}, `named.${text}`), ` is cluster ${value} `, make("button", { type: "button",
        disabled: locked(), onclick: () => act({ do: "cluster", name: text, of: null }, "Forgetting") }, "Forget")));
    const title = make("h3", {}, "Names of clusters");
    if (!data.has_clusters) {
      return make("div", {}, title, make("p", { class: "quiet" }, "No bundle of this stream finds clusters."));
    }
    return make("div", {}, title, ...list, make("div", { class: "field" }, "cluster", number, "is", name, give));
  }

  function bundles(data) {
    const choice = make("select", { disabled: locked(), "aria-label": "Bundle" },
      ...data.choices.map((value) => make("option", { value }, value)));
    const text = make("input", { type: "text", size: 22, maxlength: 400, disabled: locked(),
      placeholder: "or the folder of one", "aria-label": "Folder of a bundle" });
    const swap = make("button", { type: "button", disabled: locked(), onclick: () => act({ do: "swap",
      bundle: text.value || choice.value }, "Swapping; the new one is checked first") }, "Swap");
    const now = data.bundles.map((bundle) => make("div", {}, make("code", {}, bundle)));
    return make("div", {}, make("h3", {}, "Bundles"), ...now, make("div", { class: "field" }, choice, text, swap));
  }

  function storing(data) {
    const toggle = make("button", { type: "button", role: "switch", "aria-checked": String(data.store),
      disabled: locked(), onclick: () => act({ do: "store", store: !data.store },
        data.store ? "Stopping" : "Starting") }, data.store ? "Stop storing" : "Start storing");
    return make("div", {}, make("h3", {}, "Storing"), make("div", { class: "field" },
      data.store ? "Kept events are written to files." : "Kept events are NOT written.", toggle));
  }

  function rebuild() {
    if (!shown) return;
    const held = document.activeElement?.id;
    if (!shown.routes) return void $("steering").replaceChildren(make("p", { class: "quiet" }, shown.note));
    $("steering").replaceChildren(...shown.routes.map(routeRow),
      make("div", { class: "columns" }, clusters(shown), bundles(shown), storing(shown)));
    if (held?.startsWith("s-")) $(held)?.focus();
  }

  function show(data) {
    const counts = Object.fromEntries((data.routes ?? []).map((route) => [route.name, route.kept]));
    const key = JSON.stringify({ ...data, routes: data.routes?.map((route) => ({ ...route, kept: "" })) });
    if (shown?.key !== key || !$("steering").children.length) {
      shown = { ...data, key };
      rebuild();
    }
    for (const row of document.querySelectorAll("[data-route]")) {
      row.querySelector(".quiet").textContent = counts[row.dataset.route] ?? "";
    }
  }

  return { show, setUnlocked: rebuild };
})();
