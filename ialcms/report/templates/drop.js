"use strict";

const work = document.querySelector(".work");
const limit = Number(work.dataset.limit);
const mostObjects = Number(work.dataset.mostObjects);
const announcement = document.getElementById("status");
const find = (selector) => work.querySelector(selector);
const drop = find(".drop");
const fileInput = find("input[type=file]");
const progress = find(".uploaded");
const canvas = find(".canvas");
const frame = find(".frame");
const at = find(".at");
const list = find(".objects");
const separateButton = find(".separate");
const addButton = find(".add");
const problem = find(".broken");
const SMALLEST_PX = 8; // a shorter drag is a click
const KEY_SHARE = 0.01; // of the picture, that an arrow key moves
const POLL_MS = 700;
let video = null; // what the server says of it
let objects = []; // {name, at, edges: [left, top, right, bottom] in 0..1, element, row}

const say = (text) => {
  problem.textContent = text;
};
const show = (...names) => {
  for (const step of work.querySelectorAll(".step")) step.hidden = !names.some((name) => step.classList.contains(name));
};

async function ask(path, options) {
  const response = await fetch(path, options);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

function upload(file) {
  say("");
  if (file.size > limit) {
    say(`${file.name} has ${Math.ceil(file.size / 1e6)} MB, more than the ${limit / 1e6} MB that this server takes.`);
    return;
  }
  const request = new XMLHttpRequest(); // fetch does not say how far an upload is
  progress.hidden = false;
  request.upload.onprogress = (event) => {
    progress.value = event.loaded / event.total;
  };
  request.onload = () => {
    progress.hidden = true;
    let answer;
    try {
      answer = JSON.parse(request.responseText);
    } catch {
      answer = { error: "The server did not answer as expected." };
    }
    if (request.status === 201) openVideo(answer);
    else say(answer.error);
  };
  request.onerror = () => {
    progress.hidden = true;
    say("The upload did not reach the server: it may have ended, or refused the file.");
  };
  request.open("POST", `videos?name=${encodeURIComponent(file.name)}`);
  request.setRequestHeader("Content-Type", "application/octet-stream");
  request.send(file);
}

function openVideo(answer) {
  video = answer;
  history.replaceState(null, "", `?video=${video.id}`);
  objects = [];
  for (const given of video.objects) addObject(given.edges, given.name, given.at);
  at.max = Math.max(video.seconds - 0.1, 0);
  at.value = video.objects[0]?.at ?? Math.min(video.seconds / 2, 1);
  showFrame();
  showObjects();
  follow(video);
}

function showFrame() {
  find(".moment output").textContent = `${Number(at.value).toFixed(1)} s`;
  frame.src = `videos/${video.id}/frame?at=${at.value}`;
}

function addObject(edges, name = "", moment = Number(at.value)) {
  if (objects.length >= mostObjects) {
    say(`${mostObjects} objects are the most that are separated at once.`);
    return;
  }
  objects.push({ name, at: moment, edges });
  showObjects();
}

function showObjects() {
  for (const box of canvas.querySelectorAll(".box")) box.remove();
  list.replaceChildren();
  objects.forEach((object, index) => {
    const box = document.createElement("button");
    const caption = document.createElement("span");
    box.type = "button";
    box.className = "box";
    box.append(caption);
    box.addEventListener("keydown", (event) => moveByKey(event, object, box));
    placeBox(box, object);
    canvas.append(box);

    const name = document.createElement("input");
    name.value = object.name;
    name.maxLength = 60;
    name.placeholder = `Name of object ${index + 1}`;
    name.setAttribute("aria-label", name.placeholder);
    const moment = document.createElement("span");
    moment.className = "muted";
    moment.textContent = `at ${object.at.toFixed(1)} s`;
    const remove = document.createElement("button");
    remove.type = "button";
    remove.className = "chip";
    remove.textContent = "Remove";
    remove.addEventListener("click", () => {
      objects.splice(index, 1);
      showObjects();
    });
    const showName = () => {
      const label = object.name || `object ${index + 1}`;
      caption.textContent = label;
      box.setAttribute("aria-label", `Box of ${label}`);
      remove.setAttribute("aria-label", `Remove ${label}`);
    };
    name.addEventListener("input", () => {
      object.name = name.value;
      showName();
    });
    showName();
    const row = document.createElement("li");
    row.append(name, moment, remove);
    list.append(row);
  });
  separateButton.disabled = objects.length === 0;
}

function placeBox(box, { edges: [x1, y1, x2, y2] }) {
  box.style.left = `${100 * x1}%`;
  box.style.top = `${100 * y1}%`;
  box.style.width = `${100 * (x2 - x1)}%`;
  box.style.height = `${100 * (y2 - y1)}%`;
}

const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function moveByKey(event, object, box) {
  const direction = directions[event.key];
  if (!direction) return;
  event.preventDefault();
  const [dx, dy] = direction.map((sign) => KEY_SHARE * sign);
  const [x1, y1, x2, y2] = object.edges;
  const moved = event.shiftKey ? [x1, y1, x2 + dx, y2 + dy] : [x1 + dx, y1 + dy, x2 + dx, y2 + dy];
  const isInside = moved.every((edge) => edge >= 0 && edge <= 1) && moved[2] - moved[0] > 0.02 && moved[3] - moved[1] > 0.02;
  if (!isInside) return;
  object.edges = moved;
  placeBox(box, object);
}

// Dragging: on the picture it draws a box, on a box it moves that one.
function pointIn(event) {
  const area = canvas.getBoundingClientRect();
  const share = (value, from, size) => Math.min(Math.max((value - from) / size, 0), 1);
  return [share(event.clientX, area.left, area.width), share(event.clientY, area.top, area.height)];
}

canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  const box = event.target.closest(".box");
  const index = [...canvas.querySelectorAll(".box")].indexOf(box);
  const from = pointIn(event);
  const drawn = document.createElement("div");
  drawn.className = "box";
  const before = box && objects[index].edges;
  let edges = null;
  canvas.setPointerCapture(event.pointerId);
  const move = (now) => {
    const to = pointIn(now);
    if (box) {
      const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
      const shiftX = Math.min(Math.max(dx, -before[0]), 1 - before[2]);
      const shiftY = Math.min(Math.max(dy, -before[1]), 1 - before[3]);
      objects[index].edges = [before[0] + shiftX, before[1] + shiftY, before[2] + shiftX, before[3] + shiftY];
      placeBox(box, objects[index]);
      return;
    }
    edges = [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1])];
    placeBox(drawn, { edges });
    canvas.append(drawn);
  };
  const end = () => {
    canvas.removeEventListener("pointermove", move);
    drawn.remove();
    if (!edges) return;
    const area = canvas.getBoundingClientRect();
    const isLarge = (edges[2] - edges[0]) * area.width >= SMALLEST_PX && (edges[3] - edges[1]) * area.height >= SMALLEST_PX;
    if (isLarge) addObject(edges);
  };
  canvas.addEventListener("pointermove", move);
  canvas.addEventListener("pointerup", end, { once: true });
});

async function separate() {
  say("");
  const given = objects.map(({ name, at: moment, edges }) => ({ name, at: moment, edges }));
  try {
    const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ objects: given }) };
    follow(await ask(`videos/${video.id}/separation`, options));
  } catch (error) {
    say(error.message);
  }
}

async function follow(answer) {
  const sayState = find(".state");
  const began = performance.now();
  let waited = false;
  while (answer.state === "waiting" || answer.state === "separating") {
    waited = true;
    show("working");
    const elapsed = Math.round((performance.now() - began) / 1000);
    sayState.textContent = answer.state === "waiting" ? "Waiting for another separation" : `Separating, ${elapsed} s`;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    try {
      answer = await ask(`videos/${video.id}`);
    } catch (error) {
      say(error.message || "The server has ended.");
      return;
    }
  }
  video = answer;
  if (answer.state === "failed") say(answer.message);
  if (answer.state !== "done") {
    show("draw");
    return;
  }
  find(".open").href = `videos/${video.id}/page`;
  find(".downloads").replaceChildren(...video.files.map((name) => {
    const link = document.createElement("a");
    link.href = `videos/${video.id}/files/${encodeURIComponent(name)}`;
    link.textContent = name;
    link.download = name;
    const item = document.createElement("li");
    item.append(link);
    return item;
  }));
  show("draw", "results");
  if (waited) location.assign(`videos/${video.id}/page`);
}

for (const kind of ["dragenter", "dragover"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
for (const kind of ["dragleave", "drop"]) addEventListener(kind, () => drop.classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length && !find(".upload").hidden) upload(event.dataTransfer.files[0]);
});
fileInput.addEventListener("change", () => {
  if (fileInput.files.length) upload(fileInput.files[0]);
});
at.addEventListener("input", () => {
  find(".moment output").textContent = `${Number(at.value).toFixed(1)} s`;
});
at.addEventListener("change", showFrame);
const NO_PICTURE = "The video has no picture at this moment; choose an earlier one.";
frame.addEventListener("error", () => say(NO_PICTURE));
frame.addEventListener("load", () => {
  canvas.classList.toggle("tall", frame.naturalHeight > frame.naturalWidth);
  if (problem.textContent === NO_PICTURE) say("");
});
addButton.addEventListener("click", () => addObject([0.3, 0.3, 0.7, 0.7]));
separateButton.addEventListener("click", separate);
find(".other").addEventListener("click", () => {
  ask(`videos/${video.id}`, { method: "DELETE" }).catch(() => {}); // it may be gone already
  history.replaceState(null, "", "?");
  fileInput.value = "";
  say("");
  show("upload");
});

// Going back from the listening page finds the video and its boxes again.
const known = new URLSearchParams(location.search).get("video");
show("upload");
if (known) ask(`videos/${encodeURIComponent(known)}`).then(openVideo).catch(() => history.replaceState(null, "", "?"));
addEventListener("pageshow", (event) => {
  if (event.persisted && video) ask(`videos/${video.id}`).then(follow).catch((error) => say(error.message));
});
