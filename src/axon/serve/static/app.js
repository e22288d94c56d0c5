// The page of `axon serve`: give films, wait, look, download. The server does the rest; see app.py for its answers.
"use strict";

const POLL_MS = 700;
const LOOK_MS = 30000; // between the signs that somebody still looks at a result
const PLANES = ["Axial", "Coronal", "Sagittal"];
const VIEWS = ["frontal", "lateral"];
// Refusals that "Do not check the views" overrules.
const TRUSTED = ["XRAY_NOT_CHEST", "XRAY_INVERTED", "XRAY_VIEW", "XRAY_VIEW_UNSURE"];
const $ = (id) => document.getElementById(id);
const form = $("form");
let about, viewer, poll;
let running = null; // {id, names, started}: the job that is waited for; its films' names by view
let shown = null; // {id, names, result}: the job on the screen
let changed = false; // whether other films were chosen since the last order

class Explained extends Error {
  constructor({ code, message, fix }) {
    super(message);
    const words = { crop: "“Keep”", rotate: "“Rotate”", mirror: "“Mirror”", invert: "“Invert”" };
    const of = (lateral) => lateral ? " of the lateral film" : "";
    const onPage = fix.replace("add --trust-views", "tick “Do not check the views”").replace(/add (?=--)/, "choose ")
      .replace(/--(lateral-)?rotate 0/, "“it is upright”")
      .replace(/--(lateral-)?rotate (\d+)/, (_, lateral, turn) => `${words.rotate}${of(lateral)} by ${turn}°`)
      .replace(/--(lateral-)?(crop|rotate|mirror|invert)/g, (_, lateral, name) => words[name] + of(lateral));
    Object.assign(this, { code, fix: onPage, asked: fix, mends: onPage !== fix &&
      /--(lateral-)?(crop|rotate|mirror|invert)/.test(fix) });
  }
}

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(`/api/${path}`, options);
  } catch {
    throw new Explained({ code: "SERVE_AWAY", message: "the server does not answer", fix: "start `axon serve` again" });
  }
  if (answer.ok) return answer;
  throw new Explained(await answer.json().catch(() => null) ?? { code: `HTTP_${answer.status}`,
    message: "the server refused", fix: "reload the page" });
}

async function api(path, options) {
  return (await ask(path, options)).json();
}

function setState(state) {
  document.body.dataset.state = state;
  $("working").hidden = state !== "working";
  $("result").hidden = !shown;
  $("cancel").hidden = state !== "working";
  form.querySelector(".main").disabled = state === "working";
  if (state !== "failed") $("error").hidden = true;
  // What a reload needs; the result itself stays on the server.
  const [job, old] = [running, shown].map((kept) => kept?.id &&
    { id: kept.id, names: kept.names, started: kept.started });
  sessionStorage.setItem("axon", JSON.stringify({ running: job, shown: old }));
}

function showError(error) {
  if (!(error instanceof Explained)) console.error(error);
  const fix = error instanceof Explained ? error.fix : "reload the page";
  $("error").replaceChildren(element("b", `${error.message}`), `${fix} `, element("small", `[${error.code ?? "PAGE"}]`),
    waysOut(error));
  $("error").hidden = false;
  if (error.mends) $("mends").open = true;
  setState("failed");
  $("error").scrollIntoView({ block: "nearest" });
}

function element(tag, text = "", properties = {}) {
  return Object.assign(document.createElement(tag), { textContent: text }, properties);
}

// --- ways out of an error --------------------------------------------------------------------------------------------

let offered = []; // controls that a button of an error set, for the film of that error alone

function waysOut(error) {
  const row = element("p", "", { className: "row" });
  const [, lateral, turn] = error.asked?.match(/--(lateral-)?rotate (90|180|270)/) ?? [];
  const [, negative] = error.asked?.match(/--((?:lateral-)?invert)/) ?? [];
  const way = (label, act) => row.append(element("button", label,
    { type: "button", onclick: () => { act(); form.requestSubmit(); } }));
  if (turn) {
    const film = document.querySelector(`.drop[data-view=${lateral ? "lateral" : "frontal"}] .thumb`);
    if (!film.hidden) row.append(element("img", "", { src: film.src, className: "thumb",
      alt: "The film as you gave it" }));
    way(turn === "180" ? "Turn it by 180°" : `Turn it by 90° ${turn === "90" ? "clockwise" : "anticlockwise"}`, () =>
      offer(lateral ? "lateral_rotate" : "rotate", "value", turn));
  }
  if (error.code === "XRAY_INVERTED" && negative) way("Invert it", () =>
    offer(negative.replace("-", "_"), "checked", true));
  if (error.code === "XRAY_VIEW" && VIEWS.every((view) => form[view].files.length)) way("Swap the two films", swap);
  if (TRUSTED.includes(error.code)) way("Use it anyway", () => offer("trust_views", "checked", true));
  return row.childElementCount ? row : "";
}

function offer(name, property, value) {
  offered.push([form[name], property, form[name][property]]);
  form[name][property] = value;
}

/** Before another film: what a button set for the one before it, and the word that both were trusted on. */
function undo(view) {
  const of = ([{ name }]) => name === "trust_views" || name.startsWith("lateral_") === (view === "lateral");
  for (const [control, property, before] of offered.filter(of)) control[property] = before;
  offered = offered.filter((set) => !of(set));
}

function swap() {
  const [frontal, lateral] = VIEWS.map((view) => form[view].files[0]);
  choose("frontal", lateral);
  choose("lateral", frontal);
}

// --- giving films ----------------------------------------------------------------------------------------------------

function choose(view, file) {
  const held = new DataTransfer();
  held.items.add(file);
  form[view].files = held.files;
  form[view].dispatchEvent(new Event("change"));
}

for (const view of VIEWS) form[view].addEventListener("change", () => chosen(view));

function chosen(view) {
  const [drop, file] = [document.querySelector(`.drop[data-view=${view}]`), form[view].files[0]];
  drop.classList.toggle("full", Boolean(file));
  drop.querySelector("output").textContent = file ? `${Math.ceil(file.size / 1024).toLocaleString("en")} KiB` : "";
  const thumb = drop.querySelector(".thumb");
  URL.revokeObjectURL(thumb.src);
  thumb.hidden = true; // until it has loaded
  thumb.onload = () => { thumb.hidden = false; };
  thumb.onerror = () => preview(drop, form[view], file);
  if (file) thumb.src = URL.createObjectURL(file);
  undo(view);
  changed = true;
  if (shown) stale(old(shown.names));
}

/** Ask the server for a picture of a film that browsers do not draw, as DICOM and TIFF. */
async function preview(drop, input, film) {
  const [thumb, body] = [drop.querySelector(".thumb"), new FormData()];
  thumb.onerror = null;
  body.set("film", film);
  const fits = film.size && film.size <= about.max_film_bytes;
  const { image } = fits ? await api("preview", { method: "POST", body }).catch(() => ({})) : {};
  if (input.files[0] !== film) return;
  if (image) thumb.src = image;
  else drop.querySelector("output").textContent += "; no preview before it is sent";
}

// Anywhere on the page, so that no drop makes the browser leave it.
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    const over = event.target.closest?.(".drop");
    document.body.classList.toggle("dragging", kind === "dragenter" || kind === "dragover");
    for (const drop of document.querySelectorAll(".drop")) drop.classList.toggle("over", drop === over &&
      kind !== "drop");
    if (kind === "drop") place([...event.dataTransfer.files], over?.dataset.view);
  });
}

function place(files, view) {
  if (files.length > 1) {
    const [first, second] = /lat/i.test(files[0].name) && !/lat/i.test(files[1].name) ? [files[1], files[0]] : files;
    choose("frontal", first);
    choose("lateral", second);
  } else if (files.length) choose(view ?? (form.frontal.files.length && !form.lateral.files.length ? "lateral"
    : "frontal"), files[0]);
}

$("example").addEventListener("click", async () => {
  for (const view of VIEWS) {
    const content = await (await fetch(`/static/example/${view}.png`)).blob();
    choose(view, new File([content], `example-${view}.png`, { type: "image/png" }));
  }
});

let order = 0; // counts what was asked for: the answer to what was cancelled meanwhile is dropped

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const films = new FormData(form);
  const given = VIEWS.filter((view) => form[view].files.length);
  if (!given.includes("lateral")) films.delete("lateral");
  abandon();
  const mine = ++order, was = changed;
  changed = false; // before the films are sent: others may be chosen meanwhile
  setState("working");
  progress(0, "Sending the films");
  try {
    for (const view of given) checkSize(view, form[view].files[0].size);
    const names = Object.fromEntries(given.map((view) => [view, form[view].files[0].name]));
    const { id } = await api("jobs", { method: "POST", body: films });
    if (mine !== order) return drop(id);
    running = { id, names };
    setState("working");
    watch(id);
  } catch (error) {
    if (mine !== order) return;
    changed ||= was;
    showError(error);
  }
});

function checkSize(view, size) {
  if (!size) throw new Explained({ code: "XRAY_UNREADABLE", message: `the ${view} film is empty: its file has 0 bytes`,
    fix: "choose the file again, or export it again" });
  if (size > about.max_film_bytes) {
    const most = `${about.max_film_bytes / 2 ** 20} MiB`;
    throw new Explained({ code: "SERVE_TOO_LARGE", message: `the ${view} film has more than ${most}`,
      fix: "shrink it" });
  }
}

$("cancel").addEventListener("click", () => {
  order += 1;
  abandon();
  say("Cancelled");
  setState(shown ? "done" : "start");
});

// Whoever reloads the page comes back within seconds, and finds the result; whoever closes it does not.
addEventListener("pagehide", () => {
  for (const id of [running?.id, shown?.id]) if (id) drop(id, "?leaving=true");
});

function drop(id, how = "") {
  fetch(`/api/jobs/${id}${how}`, { method: "DELETE", keepalive: true }).catch(() => {});
}

function abandon() {
  clearTimeout(poll);
  if (running) drop(running.id);
  running = null;
}

// --- waiting ---------------------------------------------------------------------------------------------------------

const PARTS = { networks: "Drawing the coarse volume", references: "Warping CTs of other patients to the films",
  volume: "Putting the volume together", samples: "Drawing samples" };

async function watch(id) {
  try {
    const now = await api(`jobs/${id}`);
    if (id !== running?.id) return;
    if (now.state === "failed") throw new Explained(now.error);
    if (now.state === "done") return await finish(now.result);
    if (now.state === "waiting") progress(0, `Waiting: ${now.ahead} ahead of you`);
    else working(now);
    poll = setTimeout(() => watch(id), POLL_MS);
  } catch (error) {
    if (id !== running?.id) return;
    running = null;
    showError(error);
  }
}

function working({ part, step, steps }) {
  if (!running.started) {
    running.started = Date.now();
    setState("working"); // which is kept over a reload
  }
  const share = step / steps, passed = (Date.now() - running.started) / 1000;
  const left = share > 0.05 && share < 1 ? `, about ${Math.max(1, Math.round(passed * (1 - share) / share))} s left`
    : "";
  const doing = share < 1 ? `${PARTS[part]}, ${Math.round(100 * share)} % done` : "Writing the files";
  progress(share, `${doing}; ${Math.round(passed)} s so far${left}`);
  say(share < 1 ? PARTS[part] : "Writing the files");
}

async function finish(result) {
  const before = shown;
  $("cancel").hidden = true; // while the volume loads, there is nothing to cancel
  await show({ ...running, result });
  running = null;
  setState("done");
  if (before) drop(before.id);
  $("title").focus({ preventScroll: true });
  $("title").scrollIntoView();
  say(`Done: ${$("title").textContent}`);
}

function progress(fraction, text) {
  $("progress").value = fraction;
  $("progress-text").textContent = text;
}

/** Tell a screen reader, once. */
function say(text) {
  if ($("say").textContent !== text) $("say").textContent = text;
}

// --- keeping ---------------------------------------------------------------------------------------------------------

/** Tell the server that somebody still looks, and the reader when the result is gone. */
async function look() {
  if (!shown || shown.gone) return;
  const id = shown.id;
  await api(`jobs/${id}`).catch((error) => {
    if (error.code === "SERVE_GONE" && shown?.id === id) expired();
  });
}

setInterval(look, LOOK_MS);
// A page that is left turns hidden too: to look then would call back what it has just let go.
document.addEventListener("visibilitychange", () => document.hidden || look());

function expired() {
  shown.gone = true;
  for (const link of $("downloads").children) link.removeAttribute("href");
  stale(`This result is no longer on the server, which keeps it for ${about.keep_minutes} minutes after the page was ` +
    "last seen. Press Reconstruct to make it again.");
}

function stale(text) {
  $("stale").textContent = text;
  $("stale").hidden = false;
  $("result").classList.add("stale");
}

async function restore() {
  const kept = JSON.parse(sessionStorage.getItem("axon") ?? "{}");
  sessionStorage.removeItem("axon");
  if (kept.shown) {
    try {
      const { result } = await api(`jobs/${kept.shown.id}`);
      await show({ ...kept.shown, result });
      if (document.body.dataset.state === "start") setState("done");
    } catch (error) {
      if (error.code !== "SERVE_GONE") throw error;
      const fix = `it is kept for ${about.keep_minutes} minutes, and a few seconds once its page is closed; ` +
        "choose the films again and press Reconstruct";
      showError(new Explained({ code: error.code,
        message: `the volume of ${named(kept.shown.names)} is no longer on the server`, fix }));
    }
  }
  if (kept.running) {
    running = kept.running;
    setState("working");
    watch(running.id);
  }
}

// --- looking ---------------------------------------------------------------------------------------------------------

function named(names) {
  return Object.values(names).join(" and ");
}

function old(names) {
  return `This is still the volume of ${named(names)}. Press Reconstruct for the films that are chosen now.`;
}

/** How downloads are called: after the film, unless its name may be a patient's. */
function prefixOf(names, record) {
  const name = Object.values(names)[0];
  const study = /\.(zip|dcm|tgz|tbz2?|txz|tar(\.\w+)?)$/i;
  if (Object.values(record.inputs).some(({ kind }) => kind === "dicom") || study.test(name) || !name.includes(".")) {
    const now = new Date(Date.now() - 60000 * new Date().getTimezoneOffset());
    return `axon-${now.toISOString().slice(0, 19).replace(/[-:]/g, "").replace("T", "-")}`;
  }
  return `${name.replace(/(\.nii)?\.\w+$/, "")}-axon`;
}

async function show(job) {
  shown = job;
  const { record, std_top_hu, films } = job.result;
  $("result").classList.remove("stale");
  $("stale").hidden = true;
  if (changed) stale(old(job.names));
  $("result").hidden = false;
  const several = record.samples > 1 ? ` of ${record.samples}` : "";
  const images = { "Volume, the best guess": ["ct.nii.gz", "the best guess"] };
  if (record.files?.["sample.nii.gz"]) images["Sample, plausible, not measured"] = ["sample.nii.gz",
    `sample 1${several}: a plausible patient, not measured`];
  if (std_top_hu !== null) Object.assign(images, { "Mean of samples": ["mean.nii.gz", `mean${several} samples`],
    "Error to expect": ["std.nii.gz", `error to expect, from${several.replace(" of", "")} samples`] });
  choice("images", Object.keys(images), (name) => load(name, ...images[name]));
  $("images").hidden = Object.keys(images).length < 2;
  choice("planes", ["All planes", ...PLANES], setPlane);
  choice("windows", Object.keys(about.windows), (name) => setWindow(...about.windows[name]));
  const prefix = prefixOf(job.names, record);
  const labels = { "ct.nii.gz": "NIfTI volume", "dicom.zip": "DICOM series (zip)", "sample.nii.gz": "Sample",
    "dicom-sample.zip": "Sample as DICOM (zip)", "mean.nii.gz": "Mean", "std.nii.gz": "Error to expect",
    "preview.png": "Picture", "reconstruction.json": "Record" };
  const held = new Set(Object.values(images).map(([file]) => file)).add("dicom.zip").add("preview.png")
    .add("reconstruction.json");
  if (held.has("sample.nii.gz")) held.add("dicom-sample.zip");
  const offeredFiles = Object.entries(labels).filter(([file]) => held.has(file));
  $("downloads").replaceChildren(...offeredFiles.map(([file, label]) => element("a", label, {
    href: `/api/jobs/${job.id}/${file}?prefix=${encodeURIComponent(prefix)}`, className: "button",
      download: `${prefix}-${file}`,
  })));
  $("films").replaceChildren(...films.map((film) => filmRow(film, record.inputs[film.view].notes)));
  $("record").textContent = JSON.stringify(record, null, 1);
  await pick("images", Object.keys(images)[0]);
  pick("planes", matchMedia("(max-width: 640px)").matches ? "Axial" : "All planes");
}

function filmRow(film, notes) {
  const row = element("div", "", { className: "films" });
  const cut = notes.includes("a frame around the film cut off") ? "; a frame was cut off" : "";
  // Then nobody knows left and right of what was given.
  const turned = notes.some((note) => /^(rotated by|mirrored as)/.test(note));
  const placed = notes.filter((note) => note.endsWith("to fit the frontal film")).map((note) => `, ${note}`).join("");
  const sides = film.view === "lateral" ? ["A", "P"] : ["R", "L"];
  const titles = { given: `${film.view} film, as given${cut}`, film: `${film.view} film, as the model sees it${placed}`,
    reprojected: "from the volume",
    difference: `difference, mean ${film.mae}; colours from −${film.range} to ${film.range}, white is 0` };
  for (const [key, title] of Object.entries(titles)) {
    const figure = element("figure");
    const picture = element("div", "", { className: "film" });
    picture.append(element("img", "", { src: film[key], alt: `${film.view}: ${title}` }));
    if (key !== "given" || !turned) picture.append(...sides.map((side) => element("b", side)));
    const bar = key === "given" ? film.given_ten_cm : film.ten_cm;
    if (bar) picture.append(element("i", "", { style: `width: ${bar}%` }));
    figure.append(picture, element("figcaption", title));
    row.append(figure);
  }
  return row;
}

function choice(id, names, act) {
  $(id).replaceChildren(...names.map((name) => {
    const button = element("button", name, { type: "button" });
    button.setAttribute("aria-pressed", "false");
    button.act = () => act(name);
    button.addEventListener("click", () => pick(id, name)?.catch(unseen));
    return button;
  }));
}

function pick(id, name) {
  mark(id, name);
  return [...$(id).children].find((button) => button.textContent === name).act();
}

function mark(id, name) {
  for (const button of $(id).children) button.setAttribute("aria-pressed", String(button.textContent === name));
}

let loading = Promise.resolve(), wanted = 0, seen; // NiiVue shows both of two that load at once

/** Show an image, after the one that is on its way, unless another is asked for by then. */
function load(name, file, what) {
  const mine = ++wanted;
  const turn = loading.then(() => mine === wanted && draw(name, file, what));
  loading = turn.catch(() => {});
  return turn;
}

/** The image that was asked for is not to be had: what was there stays, under its name. */
async function unseen(error) {
  mark("images", seen);
  await look();
  if (!shown.gone) showError(error);
}

async function draw(name, file, what) {
  const std = file === "std.nii.gz", { id, names, result } = shown;
  const views = Object.keys(result.record.inputs), overruled = result.record.overruled;
  const onWord = overruled ? `; refused as ${overruled.join(", ")}, and made on your word` : "";
  const { name: model, version } = result.record.model;
  const from = views.length > 1 ? "two views" : `${views[0]} view`;
  const url = await (await ask(`jobs/${id}/${file}`)).arrayBuffer();
  const image = await niivue.NVImage.loadFromUrl({ url, name: file, colormap: std ? "viridis" : "gray" });
  viewer ??= await makeViewer();
  const place = viewer.volumes.length ? [...viewer.scene.crosshairPos] : [0.5, 0.5, 0.5];
  viewer.volumes = [];
  viewer.addVolume(image);
  $("title").textContent = `${name.split(",")[0]} of ${named(names)}`;
  $("facts").textContent = `${what}; ${from}; model ${model} ${version}; research only${onWord}`;
  seen = name;
  mark("images", name);
  viewer.scene.crosshairPos = place;
  sliders(std);
  $("windows").hidden = std;
  $("legend").hidden = !std;
  if (std) {
    $("top").textContent = `${result.std_top_hu.toFixed(0)} HU`;
    $("doubt").textContent = "Error to expect of the mean, as a standard deviation in HU. A low value means that the " +
      "samples agree, not that they are right.";
    bounds(0, result.std_top_hu);
    $("overlay").textContent = "";
  } else pick("windows", Object.keys(about.windows)[0]);
  $("canvas").dataset.loaded = file;
}

async function makeViewer() {
  const made = new niivue.Niivue({
    isRadiologicalConvention: true, sagittalNoseLeft: true, dragAndDropEnabled: false, backColor: [0, 0, 0, 1],
      crosshairWidth: 1,
    crosshairWidthUnit: "mm", crosshairColor: [1, 0.7, 0, 0.8], fontColor: [1, 0.8, 0.3, 1], fontMinPx: 15,
    showAllOrientationMarkers: true, multiplanarShowRender: niivue.SHOW_RENDER.NEVER,
      multiplanarLayout: niivue.MULTIPLANAR_TYPE.ROW,
    multiplanarEqualSize: true, tileMargin: 2, logLevel: "error",
  });
  made.onLocationChange = moved;
  await made.attachToCanvas($("canvas"));
  return made;
}

function setPlane(name) {
  document.body.dataset.plane = name;
  const types = { Axial: "AXIAL", Coronal: "CORONAL", Sagittal: "SAGITTAL" };
  viewer.setSliceType(niivue.SLICE_TYPE[types[name] ?? "MULTIPLANAR"]);
  scale();
}

/** Draw a bar of 10 cm at the scale of the first plane; all planes have the same. */
function scale() {
  viewer.drawScene();
  const { leftTopWidthHeight, fovMM } = viewer.screenSlices[0];
  $("bar").style.width = `${(100 * leftTopWidthHeight[2]) / Math.abs(fovMM[0]) / viewer.uiData.dpr}px`;
}

addEventListener("resize", () => viewer && requestAnimationFrame(scale));

// Sliders: one a plane; level and width of the window, where there is one. NiiVue's axes are right to left, back to
// front, feet to head.
const AXIS = { Axial: 2, Coronal: 1, Sagittal: 0 };

function sliders(std) {
  const dims = viewer.volumes[0].dimsRAS.slice(1, 4);
  const rows = PLANES.map((plane) => slider(plane, 1, dims[AXIS[plane]], 1, (value) => {
    const place = [...viewer.scene.crosshairPos];
    place[AXIS[plane]] = (value - 0.5) / dims[AXIS[plane]];
    viewer.scene.crosshairPos = place;
    viewer.drawScene();
    viewer.createOnLocationChange();
  }));
  if (!std) rows.push(...["Level", "Width"].map((name) =>
    slider(name, name === "Level" ? -1000 : 50, name === "Level" ? 1500 : 3000, 10, () => {
    for (const button of $("windows").children) button.setAttribute("aria-pressed", "false");
    applyWindow();
  }, " HU")));
  $("sliders").replaceChildren(...rows);
  viewer.createOnLocationChange();
}

function slider(name, min, max, step, act, unit = "") {
  const label = element("label", name);
  const input = element("input", "", { type: "range", id: `slider-${name}`, min, max, step });
  const output = element("output");
  input.write = (value) => {
    input.value = value;
    output.textContent = `${input.value.replace("-", "−")}${unit || ` of ${max}`}`;
  };
  input.addEventListener("input", () => {
    input.write(input.value);
    act(Number(input.value));
  });
  label.append(output, input);
  return label;
}

function moved(location) {
  const dims = viewer.volumes[0].dimsRAS.slice(1, 4);
  for (const plane of PLANES) $(`slider-${plane}`)?.write(Math.min(dims[AXIS[plane]],
    Math.floor(viewer.scene.crosshairPos[AXIS[plane]] * dims[AXIS[plane]]) + 1));
  const value = location.values[0].value;
  $("readout").textContent = `At the crosshair: ${value.toFixed(0).replace("-", "−")} HU`;
}

/** Move the plane that is shown by some slices; of all planes the axial one. */
function step(slices) {
  const plane = PLANES.includes(document.body.dataset.plane) ? document.body.dataset.plane : "Axial";
  const input = $(`slider-${plane}`);
  input.value = Number(input.value) + slices;
  input.dispatchEvent(new Event("input"));
}

function setWindow(level, width) {
  $("slider-Level").write(level);
  $("slider-Width").write(width);
  applyWindow();
}

function applyWindow() {
  const [level, width] = [Number($("slider-Level").value), Number($("slider-Width").value)];
  bounds(level - width / 2, level + width / 2);
}

function bounds(low, high) {
  $("overlay").textContent = `black ${low.toFixed(0)}, white ${high.toFixed(0)} HU`.replaceAll("-", "−");
  viewer.volumes[0].cal_min = low;
  viewer.volumes[0].cal_max = high;
  viewer.updateGLVolume();
}

// --- keys ------------------------------------------------------------------------------------------------------------

// Before NiiVue, which gives letters meanings of its own.
addEventListener("keydown", (event) => {
  if ($("result").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input:not([type=range]), select, textarea")) return;
  const arrows = event.target === $("canvas") ? { arrowup: 1, arrowright: 1, arrowdown: -1, arrowleft: -1 } : {};
  const slices = { k: 1, j: -1, ...arrows }[event.key.toLowerCase()];
  if (slices) {
    event.stopPropagation();
    event.preventDefault();
    step(slices);
    return;
  }
  const keys = { m: ["planes", 0], a: ["planes", 1], c: ["planes", 2], s: ["planes", 3], 1: ["windows", 0],
    2: ["windows", 1], 3: ["windows", 2] };
  const [id, index] = keys[event.key.toLowerCase()] ?? [];
  if (id === undefined || $(id).hidden) return;
  event.stopPropagation();
  $(id).children[index].click();
}, true);

/** What to expect, in a line above the button. */
function promise({ voxel_mm, patients }) {
  const from = patients ? `, detail from CTs of ${patients} patients, warped to your films` : "";
  return `Voxels of ${voxel_mm} mm${from}: shapes, not vessels. What films do not show is made up.`;
}

api("about").then((facts) => {
  about = facts;
  $("disclaimer").textContent = facts.disclaimer;
  $("model").textContent = `Model ${facts.model.name} ${facts.model.version}.`;
  $("software").textContent = facts.software;
  $("promise").textContent = promise(facts);
  return restore();
}).catch(showError);
