// The page: everything it shows comes from the service that served it.

import { editMask } from "./mask.js";

const at = (id) => document.getElementById(id);
const state = { about: null, photos: [], sidecars: [], layers: {}, masks: new Map() };

// Presets of options. A version decides what it does not name.
const PRESETS = {
  Fast: { stage1_only: true, detail: null },
  Faithful: { stage1_only: false, detail: 0.4 },
  Detailed: { stage1_only: false, detail: null },
};

function make(tag, text = "", more = {}) {
  const made = Object.assign(document.createElement(tag), more);
  made.textContent = text;
  return made;
}

function tell(text) { at("told").textContent = text; }

async function ask(path, more = {}) {
  let answer;
  try {
    answer = await fetch(path, more);
  } catch {
    throw new Error("the service does not answer; is it still running?");
  }
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).detail ?? `status ${answer.status}`);
  return answer;
}

// Options.

function version() { return state.about.versions[at("version").value]; }

function fillOptions() {
  const base = version(), options = base.options;
  for (const name of ["texture", "guidance_scale"]) {
    at(name).disabled = !(name in options);
    at(name).value = options[name] ?? "";
  }
  const reads = options.cfg_scale !== 1 || options.pos_prompt !== "";
  for (const name of ["pos_prompt", "neg_prompt"]) {
    at(name).closest("label").hidden = !reads;
    at(name).value = options[name] ?? "";
  }
  showAuto();
}

function preset() { return document.querySelector("#presets input:checked").value; }

function choosePreset() {
  const { detail } = PRESETS[preset()];
  at("detail-own").checked = detail === null;
  if (detail !== null) at("detail").value = detail;
  showDetail();
}

function automatic() { return at("auto").checked && !at("auto").disabled; }

function stage1Only() { return version().stage1_only || (!automatic() && PRESETS[preset()].stage1_only); }

function showDetail() {
  const own = at("detail-own").checked, off = stage1Only(), auto = automatic();
  at("detail").disabled = own || off || auto;
  at("detail-own").disabled = off || auto;
  at("detail-shown").textContent = auto ? "as the photo needs" : off ? "none" : own ? "" : at("detail").value;
}

// What every photo must have in common is not there with Auto.
function showAuto() {
  const known = state.about.auto.includes(at("version").value);
  at("auto").disabled = !known;
  at("auto").closest("label").hidden = at("auto-told").hidden = !known;
  const off = automatic() || version().stage1_only;
  for (const input of document.querySelectorAll("#presets input")) input.disabled = off;
  at("n_samples").disabled = off;
  at("faces").disabled = automatic();
  showDetail();
}

function wish() {
  const base = version(), options = {};
  const number = (id) => (at(id).value === "" ? undefined : Number(at(id).value));
  for (const name of ["texture", "guidance_scale", "seed"]) {
    if (number(name) !== undefined && number(name) !== base.options[name]) options[name] = number(name);
  }
  for (const name of ["pos_prompt", "neg_prompt"]) {
    if (at(name).value !== base.options[name]) options[name] = at(name).value;
  }
  const auto = automatic(), only = stage1Only();
  if (!auto && !at("detail-own").checked) options.detail = number("detail");
  const wished = { version: at("version").value, upscale: number("upscale"), stage1_only: only, format: at("format").value, bit_depth: at("bit_depth").value };
  if (auto) wished.auto = true;
  else if (at("faces").checked) wished.task = "faces";
  const samples = only || auto ? 1 : number("n_samples");
  return { ...wished, n_samples: samples, std_map: samples > 1, options: base.stage1_only ? {} : options };
}

// Photos.

async function add(files) {
  tell("");
  for (const file of files) {
    if (file.name.toLowerCase().endsWith(".json")) await addSidecar(file);
    else state.photos.push(file);
  }
  showChosen();
}

async function addSidecar(file) {
  try {
    const sidecar = JSON.parse(await file.text());
    if (!sidecar.parameters || !sidecar.input) throw new Error();
    state.sidecars.push(sidecar);
  } catch {
    tell(`${file.name}: is no sidecar; drop the .json file that lies beside a result`);
  }
}

async function sidecarOf(file) {
  if (!state.sidecars.length || !crypto.subtle) return state.sidecars[0];
  const bytes = new Uint8Array(await crypto.subtle.digest("SHA-256", await file.arrayBuffer()));
  const digest = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return state.sidecars.find((sidecar) => sidecar.input.sha256 === digest);
}

function showChosen() {
  const rows = state.photos.map((file, place) => {
    const row = make("li", `${file.name} `);
    const remove = make("button", "Remove", { type: "button", ariaLabel: `Remove ${file.name}` });
    remove.onclick = () => { state.photos.splice(place, 1); state.masks.delete(file); showChosen(); };
    row.append(maskButton(file), " ", remove);
    return row;
  });
  rows.push(...state.sidecars.map((sidecar) => make("li", `Sidecar of ${sidecar.name}: its settings are repeated`)));
  at("chosen").replaceChildren(...rows);
  at("go").disabled = !state.photos.length;
  estimate();
}

function maskButton(file) {
  const mask = state.masks.get(file);
  const button = make("button", mask ? `Mask: ${mask.name}` : "Mask", { type: "button", ariaLabel: `Mask of ${file.name}${mask ? `: ${mask.name}` : ""}` });
  button.onclick = async () => {
    const chosen = await editMask(file, mask ?? null);
    if (chosen) state.masks.set(file, chosen);
    else state.masks.delete(file);
    showChosen();
  };
  return button;
}

let asked = 0;

async function estimate() {
  const mine = ++asked, photo = state.photos[0];
  at("estimate").textContent = "";
  if (!photo || state.sidecars.length) return;
  const size = await createImageBitmap(photo).catch(() => null);
  if (!size || mine !== asked) return;
  at("estimate").textContent = "Expecting time and memory; for the first photo of a size this takes a while ...";
  const body = JSON.stringify({ width: size.width, height: size.height, options: wish() });
  const headers = { "Content-Type": "application/json" };
  try {
    const found = await (await ask("estimate", { method: "POST", headers, body })).json();
    if (mine !== asked) return;
    const time = found.seconds === null ? "" : `about ${told(found.seconds)}, `;
    at("estimate").textContent = `${size.width}x${size.height} becomes ${found.width}x${found.height}: ${time}${(found.bytes / 2 ** 30).toFixed(1)} GiB of memory`;
  } catch (error) {
    if (mine === asked) at("estimate").textContent = error.message;
  }
}

function told(seconds) {
  return seconds < 100 ? `${Math.max(1, Math.round(seconds))} s` : `${Math.round(seconds / 60)} min`;
}

// Jobs.

async function restore(file) {
  const form = new FormData();
  const repeated = state.sidecars.length ? await sidecarOf(file) : undefined;
  form.append("image", file, file.name);
  form.append("options", JSON.stringify(repeated ?? wish()));
  const mask = state.masks.get(file);
  if (mask) form.append("fidelity_mask", mask, mask.name);
  state.masks.delete(file);
  const row = make("li"), line = make("div", "", { className: "row" });
  const text = make("span", `${file.name}: is sent`), bar = make("progress", "", { max: 1, value: 0, ariaLabel: `Progress of ${file.name}` });
  row.append(line, bar);
  line.append(text);
  at("history").prepend(row);
  try {
    const job = await (await ask("restore?job=1&views=1", { method: "POST", body: form })).json();
    const cancel = make("button", "Cancel", { type: "button", ariaLabel: `Cancel ${file.name}` });
    cancel.onclick = () => ask(`jobs/${job.id}`, { method: "DELETE" }).catch((error) => tell(error.message));
    line.append(cancel);
    const last = await follow(job.id, (now) => {
      text.textContent = `${file.name}: ${progress(now)}`;
      // Of a photo with faces nobody knows how much is left: the bar then only moves.
      if (now.share || now.state !== "running") bar.value = now.share ?? 0;
      else bar.removeAttribute("value");
    });
    cancel.remove();
    bar.remove();
    if (last.state !== "done") throw new Error(last.error ?? "the connection was lost");
    text.textContent = last.auto ? `${file.name}: ${last.auto.text}` : file.name;
    state.layers[job.id] = { ...layers(last), ...(await facesOf(job.id)) };
    line.append(...links(last, file.name));
    if (mask) line.append(make("a", "Mask", { href: URL.createObjectURL(mask), download: mask.name, ariaLabel: `Download the mask of ${file.name}` }));
    show(job.id);
  } catch (error) {
    bar.remove();
    text.textContent = `${file.name}: ${error.message}`;
  }
}

function follow(id, each) {
  return new Promise((resolve) => {
    const source = new EventSource(`jobs/${id}/events`);
    const stop = (last) => { source.close(); resolve(last); };
    source.onmessage = (event) => {
      const now = JSON.parse(event.data);
      each(now);
      if (!["waiting", "running"].includes(now.state)) stop(now);
    };
    source.onerror = () => stop({ state: "failed" });
  });
}

function progress(now) {
  if (now.state === "waiting") return now.before ? `waits behind ${now.before}` : "waits";
  if (now.state !== "running") return now.state;
  const tiles = now.total > 1 ? `, tile ${now.done} of ${now.total}` : "";
  return `${now.stage || "begins"}${tiles}${now.left ? `, about ${told(now.left)} left` : ""}`;
}

function links({ id, results, std }, name) {
  const button = make("button", "Show", { type: "button", ariaLabel: `Show ${name}` });
  button.onclick = () => show(id);
  const link = (text, href, what) => make("a", text, { href, ariaLabel: `Download ${what} of ${name}` });
  const pictures = results
    ? results.map((_, place) => link(`Sample ${place + 1}`, `jobs/${id}/results/${place + 1}`, `sample ${place + 1}`))
    : [make("a", "Download", { href: `jobs/${id}/result`, ariaLabel: `Download ${name}` })];
  if (std) pictures.push(link("Map", `jobs/${id}/results/std`, "the map"));
  return [button, ...pictures, link("Sidecar", `jobs/${id}/sidecar`, "the sidecar")];
}

// Views of a finished job that can lie on either side of the slider, with their titles.
function layers({ results, std }) {
  const samples = results ? results.map((_, place) => [place ? `result${place + 1}` : "result", `sample ${place + 1}`]) : [["result", "result"]];
  return { left: [["input", "input"], ["stage1", "stage 1"], ...(results ? samples : [])], right: [...samples, ...(std ? [["std", "invented detail"]] : [])] };
}

// Faces that were found, with their boxes in pixels of the result; nothing for a job without faces.
async function facesOf(id) {
  const { faces, found, parameters } = await (await ask(`jobs/${id}/sidecar`)).json();
  if (!faces) return {};
  return { found, faces: faces.map(({ box, left }) => ({ box: box.map((value) => value * parameters.upscale), left })) };
}

function drawBoxes() {
  const { faces, found } = state.layers[at("compare").dataset.job] ?? {}, photo = at("under");
  at("boxes-shown").closest("label").hidden = !faces;
  at("boxes-told").textContent = found ?? "";
  at("boxes").hidden = !faces || !at("boxes-shown").checked;
  if (!faces) return;
  at("boxes").replaceChildren(...faces.map(({ box: [x, y, width, height], left }, place) => {
    const box = make("div", "", { className: left ? "face left" : "face", title: `face ${place + 1}${left ? `: left, ${left}` : ""}` });
    const share = (value, whole) => `${(100 * value) / whole}%`;
    Object.assign(box.style, { left: share(x, photo.naturalWidth), top: share(y, photo.naturalHeight), width: share(width, photo.naturalWidth), height: share(height, photo.naturalHeight) });
    return box;
  }));
}

function offer(select, choices) {
  const before = select.value;
  select.replaceChildren(...choices.map(([value, title]) => make("option", title, { value })));
  if (choices.some(([value]) => value === before)) select.value = before;
}

function show(id) {
  const { left, right } = state.layers[id];
  offer(at("layer"), left);
  offer(at("right-layer"), right);
  at("right-layer").closest("label").hidden = right.length === 1;
  at("compare").hidden = false;
  at("compare").dataset.job = id;
  at("under").src = `jobs/${id}/views/${at("right-layer").value}`;
  at("over").src = `jobs/${id}/views/${at("layer").value}`;
}

function cut() {
  at("sheet").style.setProperty("--zoom", at("zoom").value);
  at("sheet").style.setProperty("--cut", `${at("slider").value}%`);
}

async function addExample(name) {
  const data = await (await ask(`examples/${name}`)).blob();
  await add([new File([data], name, { type: data.type })]);
}

// Start.

function listen() {
  const drop = at("drop");
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop") add(event.dataTransfer.files);
    });
  }
  // A browser would drag the picture away instead of the line.
  at("sheet").ondragstart = (event) => event.preventDefault();
  at("files").onchange = (event) => { add(event.target.files); event.target.value = ""; };
  at("version").onchange = () => { fillOptions(); estimate(); };
  at("presets").onchange = () => { choosePreset(); estimate(); };
  at("detail").oninput = at("detail-own").onchange = showDetail;
  at("upscale").onchange = estimate;
  at("slider").oninput = at("zoom").oninput = cut;
  at("n_samples").onchange = at("faces").onchange = estimate;
  at("auto").onchange = () => { showAuto(); estimate(); };
  at("under").onload = at("boxes-shown").onchange = drawBoxes;
  at("layer").onchange = at("right-layer").onchange = () => show(at("compare").dataset.job);
  at("sheet").onpointerdown = at("sheet").onpointermove = (event) => {
    if (!event.buttons) return;
    const box = at("under").getBoundingClientRect();
    at("slider").value = (100 * (event.clientX - box.left)) / box.width;
    cut();
  };
  at("options").onsubmit = async (event) => {
    event.preventDefault();
    tell("");
    const photos = state.photos;
    state.photos = [];
    const sent = Promise.all(photos.map(restore));
    showChosen();
    await sent;
    state.sidecars = [];
    showChosen();
  };
}

async function start() {
  for (const name of Object.keys(PRESETS)) {
    const label = make("label", ` ${name}`), input = make("input", "", { type: "radio", name: "preset", value: name, checked: name === "Detailed" });
    label.prepend(input);
    at("presets").append(label);
  }
  state.about = await (await ask("about")).json();
  at("version").replaceChildren(...Object.keys(state.about.versions).map((name) => make("option", name)));
  at("faces").closest("label").hidden = at("faces-told").hidden = !state.about.faces;
  const most = Math.max(1, Math.min(4, state.about.limits.samples));
  at("n_samples").replaceChildren(...Array.from({ length: most }, (_, place) => make("option", `${place + 1}`)));
  at("kept").textContent = `Photos and results are kept for ${told(state.about.limits.expiry)}, then deleted. Nobody else sees them.`;
  const examples = await (await ask("examples")).json();
  at("examples").replaceChildren(...examples.map((name) => {
    const button = make("button", name.replace(".png", ""), { type: "button", ariaLabel: `Example ${name}` });
    button.onclick = () => addExample(name).catch((error) => tell(error.message));
    return button;
  }));
  fillOptions();
  listen();
  cut();
}

start().catch((error) => tell(error.message));
