// The editor of fidelity masks: a photo under a canvas, or a mask file instead.

const at = (id) => document.getElementById(id);
// Longest side of a painted mask in pixels; the service resizes it.
const LONGEST = 1024;
// Photo, its mask so far, and who waits for the new one.
let open = null;

// Ask for the mask of a photo; resolves to a File, to null (no mask), or to `before` if the user leaves.
export function editMask(photo, before) {
  return new Promise((resolve) => {
    open = { photo, mask: before, resolve, address: URL.createObjectURL(photo), painted: false };
    at("mask-file").value = "";
    at("board").hidden = true;
    at("board-told").textContent = before ? `${before.name} is used. Paint to replace it.` : "";
    at("board-photo").src = open.address;
    at("masking").showModal();
  });
}

function leave(mask) {
  const { resolve, address } = open;
  URL.revokeObjectURL(address);
  open = null;
  at("masking").close();
  resolve(mask);
}

function prepare() {
  const { naturalWidth: width, naturalHeight: height } = at("board-photo");
  // Pictures of less than 16 pixels along a side are none for the service.
  const scale = Math.min(1, Math.max(LONGEST / Math.max(width, height), 16 / Math.min(width, height)));
  at("paint").width = Math.round(width * scale);
  at("paint").height = Math.round(height * scale);
  at("board").style.setProperty("--ratio", width / height);
  at("board").hidden = false;
}

function place(event) {
  const canvas = at("paint"), box = canvas.getBoundingClientRect();
  return [((event.clientX - box.left) * canvas.width) / box.width, ((event.clientY - box.top) * canvas.height) / box.height];
}

let last = null;

function stroke(event) {
  if (!(event.buttons & 1)) { last = null; return; }
  if (event.type === "pointerdown") at("paint").setPointerCapture(event.pointerId);
  const canvas = at("paint"), pen = canvas.getContext("2d"), here = place(event);
  pen.globalCompositeOperation = at("erase").checked ? "destination-out" : "source-over";
  pen.strokeStyle = "#e0218a";
  pen.lineCap = pen.lineJoin = "round";
  pen.lineWidth = (Number(at("brush").value) / 100) * Math.max(canvas.width, canvas.height);
  pen.beginPath();
  pen.moveTo(...(event.type === "pointerdown" || !last ? here : last));
  pen.lineTo(...here);
  pen.stroke();
  last = here;
  open.painted = true;
}

function clear() {
  const canvas = at("paint");
  canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
  open.painted = false;
}

// What is painted as a mask: black there, white elsewhere.
function maskOf(canvas, name) {
  const pen = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d"), from = canvas.getContext("2d");
  const paint = from.getImageData(0, 0, canvas.width, canvas.height), { data } = paint;
  for (let i = 0; i < data.length; i += 4) data.set([255 - data[i + 3], 255 - data[i + 3], 255 - data[i + 3], 255], i);
  pen.putImageData(paint, 0, 0);
  return pen.canvas.convertToBlob({ type: "image/png" }).then((blob) => new File([blob], name, { type: "image/png" }));
}

async function use() {
  const { photo, painted, mask } = open, [file] = at("mask-file").files;
  const name = `${photo.name.replace(/\.[^.]*$/, "")}_mask.png`;
  leave(file ?? (painted ? await maskOf(at("paint"), name) : mask));
}

at("board-photo").onload = prepare;
at("board-photo").onerror = () => { if (open) at("board-told").textContent = "This browser cannot show the photo; choose a mask file."; };
at("paint").onpointerdown = at("paint").onpointermove = stroke;
at("paint").onpointerup = () => { last = null; };
at("paint-clear").onclick = clear;
at("mask-none").onclick = () => leave(null);
at("brushes").onsubmit = (event) => { event.preventDefault(); use(); };
at("masking").oncancel = (event) => { event.preventDefault(); leave(open.mask); };
