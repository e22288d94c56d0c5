// The page of `axon serve`: give films, wait, look, download. The server does the rest; see app.py for its answers.
"use strict";

const POLL_MS = 700;
const PLANES = ["Axial", "Coronal", "Sagittal"];
const $ = (id) => document.getElementById(id);
const form = $("form");
let about, job, viewer, poll;

class Explained extends Error {
  constructor({ code, message, fix }) {
    super(message);
    const words = { crop: "“Keep”", rotate: "“Rotate”", mirror: "“Mirror”", invert: "“Invert”" };
    const onPage = fix.replace("add --trust-views", "tick “Do not check the views”")
      .replace(/--(lateral-)?(crop|rotate|mirror|invert)/g, (_, lateral, name) => `${words[name]}${lateral ? " of the lateral film" : ""}`);
    Object.assign(this, { code, fix: onPage, mends: onPage !== fix && /--(lateral-)?(crop|rotate|mirror|invert)/.test(fix) });
  }
}

async function api(path, options) {
  let answer;
  try {
    answer = await fetch(`/api/${path}`, options);
  } catch {
    throw new Explained({ code: "SERVE_AWAY", message: "the server does not answer", fix: "start `axon serve` again" });
  }
  if (answer.status === 204) return null;
  const body = await answer.json().catch(() => null);
  if (!answer.ok) throw new Explained(body ?? { code: `HTTP_${answer.status}`, message: "the server refused", fix: "reload the page" });
  return body;
}

function setState(state) {
  document.body.dataset.state = state;
  $("working").hidden = state !== "working";
  $("result").hidden = state !== "done";
  $("cancel").hidden = state !== "working";
  form.querySelector(".main").disabled = state === "working";
  if (state !== "failed") $("error").hidden = true;
}

function showError(error) {
  if (!(error instanceof Explained)) console.error(error);
  const fix = error instanceof Explained ? error.fix : "reload the page";
  $("error").replaceChildren(element("b", `${error.message}`), `${fix} `, element("small", `[${error.code ?? "PAGE"}]`));
  $("error").hidden = false;
  if (error.mends) $("mends").open = true;
  setState("failed");
}

function element(tag, text = "", properties = {}) {
  return Object.assign(document.createElement(tag), { textContent: text }, properties);
}

// --- giving films -----------------------------------------------------------------------------------------------------

for (const drop of document.querySelectorAll(".drop")) {
  const input = drop.querySelector("input");
  input.addEventListener("change", () => {
    const file = input.files[0];
    drop.classList.toggle("full", Boolean(file));
    drop.querySelector("output").textContent = file ? `${Math.ceil(file.size / 1024).toLocaleString("en")} KiB` : "";
  });
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    });
  }
  drop.addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) return;
    input.files = event.dataTransfer.files;
    input.dispatchEvent(new Event("change"));
  });
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const films = new FormData(form);
  if (!films.get("lateral").size) films.delete("lateral");
  forget();
  setState("working");
  progress(0, "Sending the films");
  try {
    for (const view of ["frontal", "lateral"]) {
      if ((films.get(view)?.size ?? 0) > about.max_film_bytes) {
        const most = `${about.max_film_bytes / 2 ** 20} MiB`;
        throw new Explained({ code: "SERVE_TOO_LARGE", message: `the ${view} film has more than ${most}`, fix: "shrink it" });
      }
    }
    job = (await api("jobs", { method: "POST", body: films })).id;
    watch(job);
  } catch (error) {
    showError(error);
  }
});

$("cancel").addEventListener("click", () => {
  forget();
  setState("start");
});
addEventListener("pagehide", forget);

function forget() {
  clearTimeout(poll);
  if (job) fetch(`/api/jobs/${job}`, { method: "DELETE", keepalive: true }).catch(() => {});
  job = null;
}

// --- waiting ----------------------------------------------------------------------------------------------------------

async function watch(id) {
  try {
    const now = await api(`jobs/${id}`);
    if (id !== job) return;
    if (now.state === "failed") throw new Explained(now.error);
    if (now.state === "done") await show(now.result);
    else if (now.state === "waiting") progress(0, `Waiting: ${now.ahead} ahead of you`);
    else if (now.step < now.steps) progress(now.step / now.steps, `Sampling, step ${now.step} of ${now.steps}`);
    else progress(1, "Super-resolving and writing the files");
    // Goes on once it is done, more slowly: it tells the server that somebody still looks.
    poll = setTimeout(() => watch(id), now.state === "done" ? 30000 : POLL_MS);
  } catch (error) {
    if (id === job) showError(error);
  }
}

function progress(fraction, text) {
  $("progress").value = fraction;
  $("progress-text").textContent = text;
}

// --- looking ----------------------------------------------------------------------------------------------------------

let shown = null; // the job on the screen

async function show(result) {
  if (shown === job) return;
  shown = job;
  setState("done");
  const sampled = Boolean(result.record.files?.["sample.nii.gz"]);
  const images = sampled ? { "Volume, the best guess": "ct.nii.gz", "Sample, plausible, not measured": "sample.nii.gz" } : { CT: "ct.nii.gz" };
  if (result.std_top_hu !== null) Object.assign(images, { "Mean of samples": "mean.nii.gz", Uncertainty: "std.nii.gz" });
  choice("images", Object.keys(images), (name) => load(name, images[name], result));
  $("images").hidden = Object.keys(images).length < 2;
  choice("planes", ["All planes", ...PLANES], setPlane);
  choice("windows", Object.keys(about.windows), (name) => setWindow(...about.windows[name]));
  $("downloads").replaceChildren(...[
    ["NIfTI volume", "ct.nii.gz"], ["DICOM series (zip)", "dicom.zip"], ...(sampled ? [["Sample", "sample.nii.gz"], ["Sample as DICOM (zip)", "dicom-sample.zip"]] : []), ...(images.Uncertainty ? [["Mean", "mean.nii.gz"], ["Uncertainty", "std.nii.gz"]] : []),
    ["Picture", "preview.png"], ["Record", "reconstruction.json"],
  ].map(([label, file]) => element("a", label, { href: `/api/jobs/${job}/${file}`, className: "button", download: `axon-${file}` })));
  $("films").replaceChildren(...result.films.map(filmRow));
  $("record").textContent = JSON.stringify(result.record, null, 1);
  await pick("images", Object.keys(images)[0]);
  pick("planes", matchMedia("(max-width: 640px)").matches ? "Axial" : "All planes");
}

function filmRow(film) {
  const row = element("div", "", { className: "films" });
  const before = film.given ? { given: `${film.view} film, as given` } : {};
  const understood = `${film.view} film, as ${film.given ? "understood" : "given"}`;
  const titles = { ...before, film: understood, reprojected: "from the volume", difference: `difference, mean ${film.mae}` };
  for (const [key, title] of Object.entries(titles)) {
    const figure = element("figure");
    figure.append(element("img", "", { src: film[key], alt: `${film.view}: ${title}` }), element("figcaption", title));
    row.append(figure);
  }
  return row;
}

function choice(id, names, act) {
  $(id).replaceChildren(...names.map((name) => {
    const button = element("button", name, { type: "button" });
    button.setAttribute("aria-pressed", "false");
    button.act = () => act(name);
    button.addEventListener("click", () => pick(id, name));
    return button;
  }));
}

function pick(id, name) {
  let done;
  for (const button of $(id).children) {
    button.setAttribute("aria-pressed", String(button.textContent === name));
    if (button.textContent === name) done = button.act();
  }
  return done;
}

async function load(name, file, result) {
  const std = name === "Uncertainty";
  $("canvas").dataset.loaded = "";
  const place = viewer?.volumes.length ? [...viewer.scene.crosshairPos] : [0.5, 0.5, 0.5];
  viewer ??= await makeViewer();
  await viewer.loadVolumes([{ url: `/api/jobs/${job}/${file}`, name: file, colormap: std ? "viridis" : "gray" }]);
  viewer.scene.crosshairPos = place;
  sliders(std);
  $("windows").hidden = std;
  $("legend").hidden = !std;
  if (std) {
    $("legend").textContent = `Standard deviation of the samples: dark 0 HU, yellow ${result.std_top_hu.toFixed(0)} HU. A low value means that the samples agree, not that they are right.`;
    bounds(0, result.std_top_hu);
  } else pick("windows", Object.keys(about.windows)[0]);
  $("canvas").dataset.loaded = file;
}

async function makeViewer() {
  const made = new niivue.Niivue({
    isRadiologicalConvention: true, sagittalNoseLeft: true, dragAndDropEnabled: false, backColor: [0, 0, 0, 1], crosshairWidth: 1,
    crosshairWidthUnit: "mm", crosshairColor: [1, 0.7, 0, 0.8], fontColor: [1, 0.8, 0.3, 1], fontMinPx: 15,
    showAllOrientationMarkers: true, multiplanarShowRender: niivue.SHOW_RENDER.NEVER, multiplanarLayout: niivue.MULTIPLANAR_TYPE.ROW,
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
}

// Sliders: one a plane; level and width of the window, where there is one. NiiVue's axes are right to left, back to front, feet to head.
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
  if (!std) rows.push(...["Level", "Width"].map((name) => slider(name, name === "Level" ? -1000 : 50, name === "Level" ? 1500 : 3000, 10, () => {
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
  for (const plane of PLANES) $(`slider-${plane}`)?.write(Math.min(dims[AXIS[plane]], Math.floor(viewer.scene.crosshairPos[AXIS[plane]] * dims[AXIS[plane]]) + 1));
  const value = location.values[0].value;
  $("readout").textContent = `At the crosshair: ${value.toFixed(0).replace("-", "−")} HU`;
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
  viewer.volumes[0].cal_min = low;
  viewer.volumes[0].cal_max = high;
  viewer.updateGLVolume();
}

// --- keys -------------------------------------------------------------------------------------------------------------

// Before NiiVue, which gives letters meanings of its own.
addEventListener("keydown", (event) => {
  if (document.body.dataset.state !== "done" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input:not([type=range]), select, textarea")) return;
  const keys = { m: ["planes", 0], a: ["planes", 1], c: ["planes", 2], s: ["planes", 3], 1: ["windows", 0], 2: ["windows", 1], 3: ["windows", 2] };
  const [id, index] = keys[event.key.toLowerCase()] ?? [];
  if (id === undefined || $(id).hidden) return;
  event.stopPropagation();
  $(id).children[index].click();
}, true);

api("about").then((facts) => {
  about = facts;
  $("disclaimer").textContent = facts.disclaimer;
  $("model").textContent = `Model ${facts.model.name} ${facts.model.version}.`;
  $("software").textContent = facts.software;
}).catch(showError);
