"use strict";

// All stems play at once, each through its gain: solo and mix only change gains. The sound's clock leads,
// the muted video follows it.
const stage = document.querySelector(".stage");
const seconds = Number(stage.dataset.seconds);
const video = stage.querySelector("video");
const screenBox = stage.querySelector(".screen");
const playButton = stage.querySelector(".transport .play");
const nowPlaying = stage.querySelector(".now");
const allButton = stage.querySelector(".all");
const announcement = document.getElementById("status");
const positionSliders = stage.querySelectorAll(".position, .surface input");
const KEY_SECONDS = 0.5;
const FADE_SECONDS = 0.02; // of a gain, or it would click
const LATE_SECONDS = 0.25; // a picture farther from the sound jumps, a nearer one plays a little faster or slower
const NEAR_SECONDS = 0.04;
const ORIGINAL = "original";
const keySteps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 };

const bytesOf = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
const parts = [...stage.querySelectorAll(".track")];
const originalPart = parts.find((part) => !part.dataset.sound);
const tracks = parts.filter((part) => part !== originalPart).map((part) => ({
  part,
  name: part.querySelector("h3").textContent,
  volume: 1,
  heat: part.dataset.heat ? { values: bytesOf(part.dataset.heat), rows: Number(part.dataset.rows), columns: Number(part.dataset.columns) } : null,
  buffer: null,
  gain: null,
}));

let audio = null; // made by the first click: browsers let no page sound before
let sources = [];
let startedAt = 0; // on the audio clock, of position 0
let resting = 0; // position while nothing plays
let isPlaying = false;
let solo = null; // a track's index, ORIGINAL, or null: the mix
let soloBefore = null; // what was heard before the original

const position = () => (isPlaying ? Math.min(Math.max(audio.currentTime - startedAt, 0), seconds) : resting);

function gainOf(index) {
  if (solo === ORIGINAL) return 1;
  if (solo === null) return tracks[index].volume;
  return solo === index ? tracks[index].volume || 1 : 0;
}

function showMix() {
  tracks.forEach((track, index) => {
    track.part.classList.toggle("silent", gainOf(index) === 0);
    track.gain?.gain.setTargetAtTime(gainOf(index), audio.currentTime, FADE_SECONDS);
    for (const button of buttonsOf(index)) button.setAttribute("aria-pressed", String(solo === index));
  });
  originalPart.querySelector(".solo").setAttribute("aria-pressed", String(solo === ORIGINAL));
  originalPart.classList.toggle("silent", solo !== null && solo !== ORIGINAL);
  allButton.hidden = solo === null;
  const heard = solo === null ? "the mix" : solo === ORIGINAL ? "the original" : `${tracks[solo].name} alone`;
  nowPlaying.textContent = `You hear ${heard}`;
  announcement.textContent = nowPlaying.textContent;
  draw(true);
}

const buttonsOf = (index) => [tracks[index].part.querySelector(".solo"), ...stage.querySelectorAll(`.box[data-track="${index}"]`)];

function hear(choice) {
  if (choice === ORIGINAL) {
    if (solo !== ORIGINAL) soloBefore = solo;
    solo = solo === ORIGINAL ? soloBefore : ORIGINAL;
  } else {
    solo = solo === choice ? null : choice;
  }
  showMix();
}

function stopSources() {
  for (const source of sources) {
    source.onended = null;
    source.stop();
  }
  sources = [];
}

function startSources(from) {
  stopSources();
  startedAt = audio.currentTime - from;
  for (const track of tracks) {
    const source = new AudioBufferSourceNode(audio, { buffer: track.buffer });
    source.connect(track.gain);
    source.start(0, from);
    sources.push(source);
  }
}

async function play() {
  if (!audio) {
    audio = new AudioContext();
    tracks.forEach((track, index) => {
      track.gain = new GainNode(audio, { gain: gainOf(index) });
      track.gain.connect(audio.destination);
    });
  }
  if (audio.state !== "running") await audio.resume();
  startSources(resting);
  isPlaying = true;
  showPlaying();
  if (video) {
    video.currentTime = resting;
    video.play().catch(() => {}); // a video that ended or that this browser cannot play: the sound continues
  }
  requestAnimationFrame(follow);
}

function pause() {
  resting = position();
  isPlaying = false;
  stopSources();
  video?.pause();
  showPlaying();
  draw(true);
}

function seek(to) {
  resting = Math.min(Math.max(to, 0), seconds);
  if (isPlaying) startSources(resting);
  if (video) video.currentTime = resting;
  draw(true);
}

function showPlaying() {
  stage.classList.toggle("playing", isPlaying);
  playButton.setAttribute("aria-label", isPlaying ? "Pause" : "Play");
}

function follow() {
  if (!isPlaying) return;
  if (audio.currentTime - startedAt >= seconds) {
    pause();
    seek(0);
    return;
  }
  if (video && !video.seeking && !video.ended) {
    const late = position() - (audio.outputLatency || 0) - video.currentTime;
    if (Math.abs(late) > LATE_SECONDS) video.currentTime = position();
    video.playbackRate = Math.abs(late) > NEAR_SECONDS ? 1 + Math.min(Math.max(late, -0.1), 0.1) : 1;
  }
  draw(false);
  requestAnimationFrame(follow);
}

// Heat maps: small grids of each window, blended over time, coloured, and drawn large and smooth.
const times = stage.dataset.times.split(" ").map(Number);
const opacity = Number(stage.dataset.opacity); // where a map is highest
const palette = bytesOf(stage.dataset.palette); // 256 x RGB
const boxes = [...stage.querySelectorAll(".box")].map((button) => ({
  button,
  index: Number(button.dataset.track),
  edges: button.dataset.box.split(" ").map(Number), // left, top, right, bottom in 0..1
}));
const layer = stage.querySelector(".heat-layer");

function heatImage(heat, now) {
  const after = Math.min(Math.max(times.findIndex((time) => time >= now), 0) || (now > times[0] ? times.length - 1 : 0), times.length - 1);
  const before = Math.max(after - 1, 0);
  const span = times[after] - times[before];
  const weight = span > 0 ? Math.min(Math.max((now - times[before]) / span, 0), 1) : 0;
  const size = heat.rows * heat.columns;
  const image = new ImageData(heat.columns, heat.rows);
  for (let cell = 0; cell < size; cell++) {
    const level = Math.round((1 - weight) * heat.values[before * size + cell] + weight * heat.values[after * size + cell]);
    image.data.set(palette.subarray(3 * level, 3 * level + 3), 4 * cell);
    image.data[4 * cell + 3] = opacity * level;
  }
  const canvas = new OffscreenCanvas(heat.columns, heat.rows);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function drawInto(canvas, image, left, top, width, height) {
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, left, top, width, height);
}

let drawnAt = -1;
function draw(always) {
  const now = position();
  if (!always && Math.abs(now - drawnAt) < 0.03) return;
  drawnAt = now;
  showPosition(now);
  const images = tracks.map((track) => track.heat && heatImage(track.heat, now));
  tracks.forEach((track, index) => {
    const canvas = track.part.querySelector("canvas.heat");
    if (!canvas) return;
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    drawInto(canvas, images[index], 0, 0, canvas.width, canvas.height);
  });
  if (!layer) return;
  layer.getContext("2d").clearRect(0, 0, layer.width, layer.height);
  for (const { index, edges: [x1, y1, x2, y2] } of boxes) {
    if (gainOf(index) === 0) continue; // of what is heard only
    drawInto(layer, images[index], x1 * layer.width, y1 * layer.height, (x2 - x1) * layer.width, (y2 - y1) * layer.height);
  }
}

function showPosition(now) {
  const time = `${now.toFixed(1)} / ${seconds.toFixed(1)} s`;
  stage.style.setProperty("--position", Math.min(now / seconds, 1));
  const shown = stage.querySelector(".transport .time");
  const isNew = shown.textContent !== time;
  shown.textContent = time;
  for (const slider of positionSliders) {
    slider.value = now;
    if (isNew) slider.setAttribute("aria-valuetext", `${now.toFixed(1)} of ${seconds.toFixed(1)} seconds`);
  }
}

playButton.addEventListener("click", () => (isPlaying ? pause() : play()));
tracks.forEach((track, index) => {
  for (const button of buttonsOf(index)) button.addEventListener("click", () => hear(index));
  const slider = track.part.querySelector(".volume input");
  slider.addEventListener("input", () => {
    track.volume = Number(slider.value) / 100;
    track.part.querySelector("output").textContent = `${slider.value} %`;
    if (solo !== index) solo = null; // a change of the mix is to be heard
    showMix();
  });
});
originalPart.querySelector(".solo").addEventListener("click", () => hear(ORIGINAL));
allButton.addEventListener("click", () => {
  solo = null;
  showMix();
});
for (const slider of positionSliders) {
  slider.addEventListener("input", () => seek(Number(slider.value)));
  slider.addEventListener("keydown", (event) => {
    const steps = keySteps[event.key];
    if (!steps || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    seek(position() + steps * KEY_SECONDS);
  });
}
stage.querySelector(".heat-toggle")?.addEventListener("click", (event) => {
  const hidden = stage.classList.toggle("no-heat");
  screenBox?.classList.toggle("no-heat", hidden);
  event.currentTarget.setAttribute("aria-pressed", String(!hidden));
});
addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.matches("input, button, a")) {
    if (!/^\d$/.test(event.key)) return;
  }
  if (event.key === " ") {
    event.preventDefault();
    if (!playButton.disabled) playButton.click();
  } else if (event.key === "0") hear(ORIGINAL);
  else if (/^[1-9]$/.test(event.key) && tracks[event.key - 1]) hear(event.key - 1);
});

for (const { button, edges: [x1, y1, x2, y2] } of boxes) {
  button.style.left = `${100 * x1}%`;
  button.style.top = `${100 * y1}%`;
  button.style.width = `${100 * (x2 - x1)}%`;
  button.style.height = `${100 * (y2 - y1)}%`;
}
for (const canvas of stage.querySelectorAll(".colours")) {
  const image = new ImageData(256, 1);
  for (let level = 0; level < 256; level++) image.data.set([...palette.subarray(3 * level, 3 * level + 3), 255], 4 * level);
  canvas.getContext("2d").putImageData(image, 0, 0);
}
if (video) {
  video.src = URL.createObjectURL(new Blob([bytesOf(video.dataset.video)], { type: "video/mp4" }));
  video.removeAttribute("data-video");
}
// An offline context decodes before any click.
Promise.all(tracks.map(async (track) => {
  track.buffer = await new OfflineAudioContext(1, 1, 44100).decodeAudioData(bytesOf(track.part.dataset.sound).buffer);
  track.part.removeAttribute("data-sound");
})).then(() => {
  playButton.disabled = false;
  showMix();
}).catch(() => {
  nowPlaying.textContent = "This browser cannot play the sounds.";
});
draw(true);
