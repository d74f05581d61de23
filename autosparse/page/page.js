"use strict";
/* What moves in a report: charts, switches, the table of runs and their pages, copies. Without it, or without
   DecompressionStream, the static pictures and all tables stay as they are. */
(async () => {
  const element = (tag, content = "", attributes = {}) => {
    const made = Object.assign(document.createElement(tag), attributes);
    made.append(...[content].flat());
    return made;
  };

  async function unpacked(text) {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  }

  const { theme, charts, runs } = await unpacked(document.getElementById("data").textContent.trim());
  document.documentElement.classList.add("scripted");

  // Charts: each view is drawn when it is about to be seen, and told then what is chosen.

  const chosen = {}; // the switches of the page, by name
  const drawn = new Map(); // the views of a figure, and what its own legend says

  async function draw(figure, chart) {
    const place = figure.querySelector(".views");
    const titles = Object.keys(chart.views);
    place.classList.toggle("several", titles[0] !== ""); // one that has a title is no wider than its like
    const state = { views: [], parameters: { ...chart.parameters }, choices: chart.choices };
    drawn.set(figure, state);
    const parameters = () => ({ ...state.parameters, ...applied(chart.choices) });
    for (const title of titles) {
      const plot = element("div", "", { className: "plot" });
      place.append(element("div", title ? [element("h4", title), plot] : [plot]));
      const spec = {
        width: "container",
        height: 300,
        autosize: { type: "fit", contains: "padding" },
        data: { values: chart.rows },
        params: Object.entries(parameters()).map(([name, value]) => ({ name, value })),
        ...chart.views[title],
      };
      const config = { ...theme, legend: { ...theme.legend, disable: !chart.legend } };
      const tooltip = { disableDefaultStyle: true };
      const result = await vegaEmbed(plot, spec, { mode: "vega-lite", renderer: "svg", actions: false, config, tooltip });
      state.views.push(result.view);
    }
    figure.classList.add("drawn");
    for (const view of state.views) tell(view, parameters()); // what was chosen while it was drawn
  }

  // What is chosen, where a chart knows it; else the first that it knows.
  function applied(choices) {
    const value = ([name, known]) => [name, known.includes(chosen[name]) ? chosen[name] : known[0]];
    return Object.fromEntries(Object.entries(choices).map(value));
  }

  function tell(view, parameters) {
    for (const [name, value] of Object.entries(parameters)) view.signal(name, value);
    view.runAsync();
  }

  function choose(name, value) {
    chosen[name] = value;
    for (const { views, choices } of drawn.values()) for (const view of views) tell(view, applied(choices));
    for (const group of document.querySelectorAll(`.switch[data-name="${name}"]`)) {
      const inputs = [...group.querySelectorAll("input")];
      (inputs.find((input) => input.value === value) ?? inputs[0]).checked = true;
    }
    for (const group of document.querySelectorAll(`.choice[data-name="${name}"]`)) {
      const parts = [...group.children];
      const shown = parts.find((part) => part.dataset.value === value) ?? parts[0];
      for (const part of parts) part.hidden = part !== shown;
    }
  }

  for (const group of document.querySelectorAll(".choice")) {
    [...group.children].forEach((part, number) => { part.hidden = number > 0; });
  }

  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      draw(target, charts[target.dataset.chart]);
    }
  }, { rootMargin: "400px" });
  for (const figure of document.querySelectorAll("figure[data-chart]")) seen.observe(figure);

  document.addEventListener("change", ({ target }) => {
    const group = target.closest(".switch, .legend");
    if (group?.matches(".switch")) choose(group.dataset.name, target.value);
    if (group?.matches(".legend")) {
      const boxes = [...group.querySelectorAll("input")];
      const parameters = {
        hidden: boxes.filter((box) => box.name !== "whole" && !box.checked).map((box) => box.value),
        whole: boxes.some((box) => box.name === "whole" && box.checked),
      };
      const state = drawn.get(group.closest("figure"));
      Object.assign(state.parameters, parameters);
      for (const view of state.views) tell(view, parameters);
    }
  });

  // Copies: what a table shows, in the order in which it shows it.

  const tex = { "\\": "\\textbackslash{}", "^": "\\textasciicircum{}", "~": "\\textasciitilde{}", "±": "$\\pm$", "→": "$\\to$",
    "–": "--" };
  const escaped = (text) => text.replace(/[\\^~±→–%&#_${}]/g, (character) => tex[character] ?? `\\${character}`);
  const bold = { markdown: (text) => `**${text}**`, latex: (text) => `\\textbf{${text}}`, csv: (text) => text };
  const plain = {
    markdown: (text) => text.replace(/\|/g, "\\|"),
    latex: escaped,
    csv: (text) => (/[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text),
  };
  const written = {
    csv: (rows) => rows.map((row) => row.join(",")),
    markdown: ([header, ...rows]) =>
      [header, header.map((_, number) => (number ? "---:" : "---")), ...rows].map((row) => `| ${row.join(" | ")} |`),
    latex: ([header, ...rows]) => {
      const line = (row) => `${row.join(" & ")} \\\\`;
      const columns = `l${"r".repeat(header.length - 1)}`;
      return [`\\begin{tabular}{${columns}}`, "\\toprule", line(header), "\\midrule", ...rows.map(line),
        "\\bottomrule", "\\end{tabular}"];
    },
  };

  function copied(table, format) {
    const rows = [...table.rows].filter((row) => !row.hidden).map((row) => [...row.cells].map((cell) => {
      const text = plain[format](cell.textContent.trim());
      return cell.querySelector("b") ? bold[format](text) : text;
    }));
    return `${written[format](rows).join("\n")}\n`;
  }

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch { // a browser that does not give the clipboard to a file
      const area = element("textarea", "", { value: text });
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  }

  document.addEventListener("click", async ({ target }) => {
    const format = target.dataset?.copy;
    if (!format) return;
    const status = target.parentElement.querySelector("[role=status]");
    await copy(copied(target.closest(".table").querySelector("table"), format));
    status.textContent = "copied";
    setTimeout(() => { status.textContent = ""; }, 2000);
  });

  // The table of runs.

  for (const table of document.querySelectorAll("table.sortable")) {
    const [body] = table.tBodies;
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      const button = element("button", header.textContent, { type: "button" });
      header.replaceChildren(button);
      button.addEventListener("click", () => {
        const up = header.getAttribute("aria-sort") !== "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        header.setAttribute("aria-sort", up ? "ascending" : "descending");
        const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
        const numeric = header.classList.contains("number");
        const sign = up ? 1 : -1;
        const compared = (a, b) => {
          if (a === "" || b === "") return (a === "") - (b === ""); // what is not known comes last, either way
          return sign * (numeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
        };
        body.append(...[...body.rows].sort((a, b) => compared(value(a), value(b))));
      });
    });
    const filter = document.getElementById("filter");
    const status = filter.parentElement.querySelector("[role=status]");
    const narrow = () => {
      const words = filter.value.toLowerCase().split(/\s+/);
      for (const row of body.rows) {
        const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
      status.textContent = `${[...body.rows].filter((row) => !row.hidden).length} of ${body.rows.length} runs`;
    };
    filter.addEventListener("input", narrow);
    narrow();
  }

  // A page for each run, at #run=NUMBER.

  const main = document.getElementById("main");
  const header = document.querySelector("header");
  const article = document.getElementById("run");
  const title = document.title;
  let left = 0; // where the report was scrolled to

  function tableOf([head, ...rows]) {
    const line = (row, tag) => element("tr", row.map((cell, number) => element(number ? tag : "th", cell)));
    const table = element("table", [element("thead", line(head, "th")), element("tbody", rows.map((row) => line(row, "td")))]);
    const scroll = element("div", table, { className: "scroll", tabIndex: 0 });
    return element("div", [scroll, document.getElementById("copies").content.cloneNode(true)], { className: "table" });
  }

  function show(number) {
    const run = runs[number];
    const beside = (other, label) => runs[other] && element("a", label, { href: `#run=${other}` });
    const back = element("a", "← the report", { href: "#", className: "home" });
    const links = [back, beside(number - 1, "previous run"), beside(number + 1, "next run")].filter(Boolean);
    const facts = Object.entries(run.cells).filter(([, value]) => value !== "–")
      .map(([name, value]) => element("div", [element("dt", name), element("dd", value)]));
    const parts = [element("nav", links, { className: "back" }), element("h1", run.name), element("dl", facts)];
    let figure = null;
    if (run.chart) {
      figure = element("figure", element("div", "", { className: "views" }));
      parts.push(figure);
    }
    for (const [heading, rows] of Object.entries(run.tables)) parts.push(element("h2", heading), tableOf(rows));
    for (const [heading, text] of Object.entries(run.texts)) parts.push(element("h2", heading), element("pre", text));
    article.replaceChildren(...parts);
    document.title = `${run.name} – ${title}`;
    if (figure) draw(figure, run.chart);
  }

  function follow() {
    const number = Number(/^#run=(\d+)$/.exec(location.hash)?.[1] ?? NaN);
    const open = number in runs;
    if (open && article.hidden) left = scrollY;
    for (const figure of drawn.keys()) if (article.contains(figure)) drawn.delete(figure);
    article.hidden = !open;
    main.hidden = header.hidden = open;
    if (open) {
      show(number);
      article.focus({ preventScroll: true });
      scrollTo({ top: 0, behavior: "instant" });
    } else {
      document.title = title;
      if (article.firstChild) scrollTo({ top: left, behavior: "instant" });
      article.replaceChildren();
    }
  }
  addEventListener("hashchange", follow);
  follow();
})();
