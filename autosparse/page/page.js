"use strict";
/* Charts, switches, copies, the table of runs and the comparison of two. Without scripts or DecompressionStream, the
   page keeps its pictures and tables. */
(async () => {
  const element = (tag, content = "", attributes = {}) => {
    const made = Object.assign(document.createElement(tag), attributes);
    made.append(...[content].flat());
    return made;
  };
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  async function unpacked(text) {
    const bytes = Uint8Array.from(atob(text.trim()), (character) => character.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  }

  let data = await unpacked(document.getElementById("data").textContent);
  const { theme, charts, shades } = data;
  document.documentElement.classList.add("scripted");

  // The address holds what a reader has chosen, so that a link shows the same.

  let address = new URLSearchParams();

  function remember(name, ...values) {
    address.delete(name);
    for (const value of values) if (value) address.append(name, value);
    history.replaceState(null, "", `#${address}`);
  }

  function restore() {
    const id = decodeURIComponent(location.hash.slice(1));
    if (document.getElementById(id)) remember("at", id); // a link within the page
    else address = new URLSearchParams(location.hash.slice(1));
    follow();
    arrange();
    compare();
    const target = document.getElementById(address.get("at"));
    if (target?.matches("details")) target.open = true;
    target?.scrollIntoView();
  }

  // Charts: each figure is drawn when it is about to be seen, with the current choices.

  const drawn = new Map(); // the views of each figure and the state of its legend

  // The choices that a chart knows; for the others, its first value.
  const applied = (choices) => Object.fromEntries(Object.entries(choices).map(([name, known]) =>
    [name, known.includes(address.get(name)) ? address.get(name) : known[0]]));

  const inputs = (chart, parameters) => ({
    datasets: { rows: chart.rows },
    params: Object.entries(parameters).map(([name, value]) => ({ name, value })),
  });

  async function draw(figure, chart) {
    const place = figure.querySelector(".views");
    const titles = Object.keys(chart.views);
    place.classList.toggle("several", titles[0] !== ""); // a single view with a title is no wider than its neighbors
    const labels = place.clientWidth > 560; // they need room
    const state = { views: [], parameters: { ...chart.parameters, labels }, choices: chart.choices };
    drawn.set(figure, state);
    const parameters = () => ({ ...state.parameters, ...applied(chart.choices) });
    for (const title of titles) {
      const plot = element("div", "", { className: "plot" });
      place.append(element("div", title ? [element("h4", title), plot] : [plot]));
      const spec = {
        ...chart.views[title],
        width: "container",
        autosize: { type: "fit", contains: "padding" },
        ...inputs(chart, parameters()),
      };
      const config = { ...theme, legend: { ...theme.legend, disable: !chart.legend } };
      const tooltip = { disableDefaultStyle: true };
      const result = await vegaEmbed(plot, spec, { mode: "vega-lite", renderer: "svg", actions: false, config, tooltip });
      state.views.push(result.view);
    }
    figure.classList.add("drawn");
    for (const view of state.views) update(view, parameters(), chart.rows); // they may have changed while it was drawn
  }

  function update(view, parameters, rows) {
    for (const [name, value] of Object.entries(parameters)) view.signal(name, value);
    if (rows) view.data("rows", rows);
    view.runAsync();
  }

  // Charts, switches and parts of the page follow the choices.
  function follow() {
    for (const { views, choices } of drawn.values()) for (const view of views) update(view, applied(choices));
    for (const group of all(".switch")) {
      const boxes = all("input", group);
      (boxes.find((box) => box.value === address.get(group.dataset.name)) ?? boxes[0]).checked = true;
    }
    for (const group of all(".choice")) {
      const parts = [...group.children];
      const shown = parts.find((part) => part.dataset.value === address.get(group.dataset.name)) ?? parts[0];
      for (const part of parts) part.hidden = part !== shown;
    }
  }

  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      observer.unobserve(target);
      draw(target, charts[target.dataset.chart]);
    }
  }, { rootMargin: "400px" });
  for (const figure of all("figure[data-chart]")) observer.observe(figure);

  document.addEventListener("change", ({ target }) => {
    const group = target.closest(".switch, .legend");
    if (group?.matches(".switch")) {
      remember(group.dataset.name, target.value);
      follow();
      arrange();
    }
    if (group?.matches(".legend")) {
      const boxes = all("input", group);
      const parameters = {
        hidden: boxes.filter((box) => box.name !== "whole" && !box.checked).map((box) => box.value),
        whole: boxes.some((box) => box.name === "whole" && box.checked),
      };
      const state = drawn.get(group.closest("figure"));
      Object.assign(state.parameters, parameters);
      for (const view of state.views) update(view, parameters);
    }
  });

  // A figure is saved as it is shown, in the colors of a page on white, with its legend.

  async function save(figure, name) {
    const chart = charts[figure.dataset.chart];
    const titles = Object.keys(chart.views);
    const width = titles.length > 1 ? 380 : 640;
    const parameters = { ...drawn.get(figure).parameters, ...applied(chart.choices), labels: true };
    const concat = titles.map((title) => ({ ...chart.views[title], title, width }));
    const config = { ...theme, background: "white", font: "sans-serif" };
    const spec = { concat, columns: 2, ...inputs(chart, parameters) };
    const { view } = await vegaEmbed(element("div"), spec, { mode: "vega-lite", actions: false, config });
    let svg = await view.toSVG();
    for (const [color, shade] of Object.entries(shades)) svg = svg.replaceAll(color, shade);
    const href = URL.createObjectURL(new Blob([svg], { type: "image/svg+xml" }));
    element("a", "", { href, download: `${name}.svg` }).click();
  }

  // Copies of a table have its current order, columns and filter.

  const tex = { "\\": "\\textbackslash{}", "^": "\\textasciicircum{}", "~": "\\textasciitilde{}", "±": "$\\pm$", "→": "$\\to$",
    "–": "--" };
  const escaped = (text) => text.replace(/[\\^~±→–%&#_${}]/g, (character) => tex[character] ?? `\\${character}`);
  const formats = {
    markdown: {
      cell: (text) => text.replace(/\|/g, "\\|"),
      bold: (text) => `**${text}**`,
      lines: ([header, ...rows]) =>
        [header, header.map((_, number) => (number ? "---:" : "---")), ...rows].map((row) => `| ${row.join(" | ")} |`),
    },
    latex: {
      cell: escaped,
      bold: (text) => `\\textbf{${text}}`,
      lines: ([header, ...rows]) => {
        const line = (row) => `${row.join(" & ")} \\\\`;
        return [`\\begin{tabular}{l${"r".repeat(header.length - 1)}}`, "\\toprule", line(header), "\\midrule",
          ...rows.map(line), "\\bottomrule", "\\end{tabular}"];
      },
    },
    csv: {
      cell: (text) => (/[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text),
      bold: (text) => text,
      lines: (rows) => rows.map((row) => row.join(",")),
    },
  };

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch { // some browsers deny files the clipboard
      const area = element("textarea", "", { value: text });
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  }

  document.addEventListener("click", async ({ target }) => {
    if (target.dataset?.download) await save(target.closest("figure"), target.dataset.download);
    const format = formats[target.dataset?.copy];
    if (!format) return;
    const rows = [...target.closest(".table").querySelector("table").rows].filter((row) => !row.hidden);
    const cells = rows.map((row) => [...row.cells].filter((cell) => !cell.hidden).map((cell) => {
      const text = format.cell(cell.textContent.trim());
      return cell.querySelector("b") ? format.bold(text) : text;
    }));
    await copy(`${format.lines(cells).join("\n")}\n`);
    const status = target.parentElement.querySelector("[role=status]");
    status.textContent = "copied";
    setTimeout(() => { status.textContent = ""; }, 2000);
  });

  // The table of runs: filtered, sorted by the chosen column, with the columns of the chosen metric.

  const table = document.querySelector("table.sortable");
  const headers = table ? [...table.tHead.rows[0].cells] : [];
  const names = headers.map((header) => header.textContent.replace(/, %$/, "").replace(/,? /g, "-").toLowerCase());
  const filter = document.getElementById("filter");
  const textOf = (row, column) => row.cells[column].textContent.trim();

  // Return a test of rows for a term: a word, FIELD:TEXT, or FIELD<NUMBER with one of < <= = >= >.
  function condition(term) {
    const [, name, operator, wanted] = /^([^:<>=]+)(:|[<>]=?|=)(.*)$/.exec(term) ?? [];
    if (!operator) return (row) => row.textContent.toLowerCase().includes(term);
    const column = names.indexOf(name);
    if (column < 0) throw Error(`no column “${name}”; there are ${names.join(", ")}`);
    if (operator === ":") return (row) => textOf(row, column).toLowerCase().includes(wanted);
    if (!headers[column].classList.contains("number")) throw Error(`${name} has text: write ${name}:${wanted || "text"}`);
    if (!wanted || Number.isNaN(Number(wanted))) throw Error(`“${term}”: a number must follow ${operator}`);
    return (row) => {
      const difference = Number(textOf(row, column)) - wanted; // as shown, with four digits
      return difference < 0 ? operator[0] === "<" : difference > 0 ? operator[0] === ">" : difference === 0 && operator.includes("=");
    };
  }

  function arrange() {
    if (!table) return;
    const [body] = table.tBodies;
    const text = address.get("filter") ?? "";
    if (document.activeElement !== filter) filter.value = text;
    let tests = [], problem = "";
    try {
      tests = text.toLowerCase().split(/\s+/).filter(Boolean).map(condition);
    } catch (error) {
      problem = error.message;
    }
    const rows = [...body.rows];
    for (const row of rows) row.hidden = !tests.every((test) => test(row));
    filter.setAttribute("aria-invalid", problem !== "");
    filter.parentElement.querySelector("[role=status]").textContent =
      problem || `${rows.filter((row) => !row.hidden).length} of ${rows.length} runs`;
    const metrics = headers.map((header) => header.dataset.metric).filter(Boolean);
    const metric = metrics.includes(address.get("metric")) ? address.get("metric") : metrics[0];
    headers.forEach((header, column) => {
      const hidden = (header.dataset.metric ?? metric) !== metric;
      for (const row of table.rows) row.cells[column].hidden = hidden;
      header.removeAttribute("aria-sort");
    });
    const sort = address.get("sort") ?? "";
    const column = names.indexOf(sort.replace(/^-/, ""));
    if (column < 0) return;
    headers[column].setAttribute("aria-sort", sort[0] === "-" ? "descending" : "ascending");
    const sign = sort[0] === "-" ? -1 : 1;
    const numeric = headers[column].classList.contains("number");
    const value = (row) => row.cells[column].dataset.value ?? textOf(row, column);
    const order = (a, b) => {
      if (a === "" || b === "") return (a === "") - (b === ""); // missing values come last in either order
      return sign * (numeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
    };
    body.append(...rows.sort((a, b) => order(value(a), value(b))));
  }

  headers.forEach((header, column) => {
    const button = element("button", header.textContent, { type: "button" });
    header.replaceChildren(button);
    button.addEventListener("click", () => {
      remember("sort", (header.getAttribute("aria-sort") === "ascending" ? "-" : "") + names[column]);
      arrange();
    });
  });
  filter?.addEventListener("input", () => {
    remember("filter", filter.value);
    arrange();
  });

  // Two runs side by side: their curves, their masks and their options.

  const grid = (caption, heads, rows) => element("div", [
    element("p", caption, { className: "caption" }),
    element("div", element("table", [
      element("thead", element("tr", heads.map((head) => element("th", head, { scope: "col" })))),
      element("tbody", rows.map((row) => element("tr", row.map((cell, k) => element(k ? "td" : "th", cell))))),
    ]), { className: "scroll", tabIndex: 0 }),
  ], { className: "table" });

  function picture({ rows, columns, cells, highest }, shared) {
    const canvas = element("canvas", "", { width: columns, height: rows, className: "mask" });
    canvas.setAttribute("role", "img");
    canvas.ariaLabel = `density over ${rows} × ${columns} cells, at most ${(100 * highest).toPrecision(3)}%`;
    const image = new ImageData(columns, rows);
    const level = (character, k) => { image.data[4 * k + 3] = character.charCodeAt(0) * highest / shared; };
    [...atob(cells)].forEach(level);
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  function masks(pair) {
    const [a, b] = pair.map((name) => data.runs[name].mask);
    if (!a || !b) return [element("p", "No masks to compare: a report has those of at most 200 complete runs of irp and prune, a live page none.", { className: "note" })];
    if (a.network !== b.network) return [element("p", "Their masks are of different networks.", { className: "note" })];
    const { layers, shared, sampled } = data.networks[a.network];
    const count = (value) => Math.round(value).toLocaleString("en");
    const percent = (part, whole) => `${whole ? (100 * part / whole).toPrecision(3) : 0}%`;
    const kept = (part, whole) => `${count(part)} (${percent(part, whole)})`;
    const total = (values) => values.reduce((sum, value) => sum + value, 0);
    const rows = layers.map(({ name, shape, size }, k) => {
      const two = [a.layers[k], b.layers[k]];
      const highest = Math.max(...two.map((layer) => layer.highest)) || 1;
      return [name, shape.join(" × "), count(size),
        ...two.flatMap((layer) => [kept(layer.kept, size), picture(layer, highest)])];
    });
    const [first, second] = [a, b].map((mask) => total(mask.layers.map((layer) => layer.kept)));
    const size = total(layers.map((layer) => layer.size));
    rows.push(["all", "", count(size), kept(first, size), "", kept(second, size), ""]);
    const [low, high] = [a.row, b.row].sort((x, y) => x - y);
    const both = low === high ? first : shared[high][low];
    const chance = total(layers.map((layer, k) => a.layers[k].kept * b.layers[k].kept / layer.size));
    const sentence = `Both keep ${sampled ? "about " : ""}${count(both)} weights: ${percent(both, first)} of those of ${pair[0]}, ` +
      `${percent(both, second)} of those of ${pair[1]}. Random masks with the same densities of layers would share ` +
      `${count(chance)}: ${percent(chance, first)} and ${percent(chance, second)}.`;
    const heads = pair.flatMap((name) => [`kept by ${name}`, ""]);
    const caption = "Kept weights by layer. Pictures have outputs as rows and inputs as columns; stronger cells are denser.";
    return [element("p", sentence), grid(caption, ["layer", "shape", "weights", ...heads], rows)];
  }

  function options(pair) {
    const [a, b] = pair.map((name) => data.runs[name].options);
    const keys = [...new Set([...Object.keys(a), ...Object.keys(b)])];
    const rows = (some) => some.map((key) => [key, a[key] ?? "–", b[key] ?? "–"]);
    const differ = keys.filter((key) => a[key] !== b[key]), same = keys.filter((key) => a[key] === b[key]);
    const heads = ["option", ...pair];
    const marked = rows(differ).map(([key, ...values]) => [`≠ ${key}`, ...values.map((value) => element("b", value))]);
    return [grid(`Options that differ: ${differ.length}.`, heads, marked), element("details", [
      element("summary", `${same.length} options are the same`), grid("", heads, rows(same)),
    ])];
  }

  let compared = ""; // the pair that is shown
  function compare() {
    const pair = address.getAll("run").filter((name) => data.runs?.[name]);
    for (const box of all(".sortable input")) box.checked = pair.includes(box.value);
    const section = document.querySelector(".pair");
    if (!section) return;
    section.hidden = pair.length < 2;
    if (section.hidden) return;
    all("[data-side]", section).forEach((title, side) => { title.textContent = `${"●■"[side]} ${pair[side]}`; });
    charts.pair.rows = pair.map((series, side) => ({ series, side, ...data.runs[series].curve }));
    for (const view of drawn.get(section.querySelector("figure"))?.views ?? []) update(view, {}, charts.pair.rows);
    if (compared !== (compared = pair.join())) {
      section.querySelector(".masks").replaceChildren(...masks(pair));
      section.querySelector(".options").replaceChildren(...options(pair));
    }
  }

  table?.addEventListener("change", ({ target }) => {
    const others = address.getAll("run").filter((name) => name !== target.value);
    remember("run", ...(target.checked ? [...others, target.value].slice(-2) : others));
    compare();
  });

  addEventListener("hashchange", restore);
  restore();

  // A live page: new states replace the table's rows and logs; new results or columns load the page anew.

  const drawing = (charts) => JSON.stringify({ ...charts, pair: 0 });
  const before = drawing(charts);
  const timer = document.body.dataset.live && setInterval(async () => {
    const page = new DOMParser().parseFromString(await (await fetch(location.href, { cache: "no-store" })).text(), "text/html");
    const next = page.querySelector("table.sortable");
    const heads = (each) => [...each.tHead.rows[0].cells].map((cell) => cell.textContent).join();
    const fresh = page.body.dataset.live && await unpacked(page.getElementById("data").textContent);
    if (!fresh || !next || heads(next) !== heads(table) || drawing(fresh.charts) !== before) {
      clearInterval(timer);
      location.reload();
      return;
    }
    data = fresh;
    const focus = document.activeElement.value;
    table.tBodies[0].replaceChildren(...next.tBodies[0].rows);
    document.querySelector(".runs .caption").textContent = page.querySelector(".runs .caption").textContent;
    for (const log of all(".logs details", page)) log.open = document.getElementById(log.id)?.open;
    document.querySelector(".logs")?.replaceChildren(...all(".logs details", page));
    arrange();
    compare();
    all(".sortable input").find((box) => box.value === focus)?.focus({ preventScroll: true });
  }, 5000);
})();
