// The photo of a request: dropped, chosen, pasted or taken, shown, and sent as it is unless it is
// too large for one request.

import { byId, tell } from "./dom.js";

// A correction sends the photo as base64, a third longer, and a body has at most 12 MB.
const MOST_BYTES = 8_000_000;
const SCALED_SIDE_PX = 1600;

/** Wire the photo's part of the form; return { get, set, clear }, `get` giving a Blob or null. */
export function photoField() {
  const image = byId("photo");
  let blob = null;
  let address = "";

  function show(found) {
    if (address) URL.revokeObjectURL(address);
    blob = found;
    address = found ? URL.createObjectURL(found) : "";
    if (found) image.src = address;
    else image.removeAttribute("src");
    byId("photo-shown").hidden = byId("remove-photo").hidden = !found;
    byId("photo-empty").hidden = Boolean(found);
    byId("choose").textContent = found ? "Choose another" : "Choose a photo";
    byId("photo-caption").textContent = "";
  }

  async function take(file) {
    tell(byId("photo-problem"), "");
    if (!file) return;
    let scaled = null;
    if (file.size > MOST_BYTES) {
      scaled = await scaledDown(file);
      if (!scaled) {
        const size = Math.round(file.size / 1e6);
        tell(
          byId("photo-problem"),
          `This file has ${size} MB and is no photo that can be made smaller here.`,
        );
        return;
      }
    }
    show(scaled ?? file);
    const name = file.name ? `${file.name}, ` : "";
    const size = `${Math.max(1, Math.round(file.size / 1000)).toLocaleString("en")} kB`;
    byId("photo-caption").textContent = `${name}${size}${scaled ? ", made smaller to be sent" : ""}`;
  }

  image.addEventListener("error", () => {
    if (!blob) return;
    show(null);
    tell(byId("photo-problem"), "This file is no photo that can be shown; choose a JPEG, PNG or WebP file.");
  });
  byId("remove-photo").addEventListener("click", () => {
    show(null);
    byId("choose").focus();
  });
  for (const [button, input] of [
    ["choose", "file"],
    ["use-camera", "capture"],
  ]) {
    byId(input).addEventListener("change", () => {
      take(byId(input).files[0]);
      byId(input).value = "";
    });
    byId(button).addEventListener("click", () => {
      const live = input === "capture" && navigator.mediaDevices?.getUserMedia;
      if (live) openCamera(take);
      else byId(input).click();
    });
  }
  takeDropped(take);
  return { get: () => blob, take, clear: () => show(null) };
}

function takeDropped(take) {
  const zone = byId("drop");
  const over = (is) => zone.classList.toggle("over", is);
  const hasFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  // Anywhere on the page: a photo let go beside the field would else replace the page.
  document.addEventListener("dragover", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    over(true);
  });
  document.addEventListener("dragleave", (event) => over(event.relatedTarget !== null));
  document.addEventListener("drop", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    over(false);
    take(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
    if (file) take(file);
  });
}

/** Return a smaller JPEG of a photo, or null where it cannot be read. */
async function scaledDown(file) {
  try {
    const bitmap = await createImageBitmap(file);
    const scale = Math.min(1, SCALED_SIDE_PX / Math.max(bitmap.width, bitmap.height));
    return await drawn(bitmap, bitmap.width * scale, bitmap.height * scale);
  } catch {
    return null;
  }
}

function drawn(source, width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width));
  canvas.height = Math.max(1, Math.round(height));
  canvas.getContext("2d").drawImage(source, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
}

async function openCamera(take) {
  const dialog = byId("camera");
  const video = byId("video");
  const shutter = byId("take");
  tell(byId("camera-problem"), "");
  shutter.disabled = true;
  dialog.showModal();
  let stream = null;
  const close = () => dialog.close();
  const shoot = async () => {
    const photo = await drawn(video, video.videoWidth, video.videoHeight);
    dialog.close();
    take(new File([photo], "camera.jpg", { type: "image/jpeg" }));
  };
  shutter.addEventListener("click", shoot);
  byId("camera-close").addEventListener("click", close);
  dialog.addEventListener(
    "close",
    () => {
      stream?.getTracks().forEach((track) => track.stop());
      video.srcObject = null;
      shutter.removeEventListener("click", shoot);
      byId("camera-close").removeEventListener("click", close);
      byId("use-camera").focus();
    },
    { once: true },
  );
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    const why = error.name === "NotAllowedError" ? "The camera may not be used" : "No camera can be used";
    tell(byId("camera-problem"), `${why}; choose a photo instead.`);
    return;
  }
  if (!dialog.open) {
    stream.getTracks().forEach((track) => track.stop());
    return;
  }
  video.srcObject = stream;
  await video.play();
  shutter.disabled = false;
  shutter.focus();
}
