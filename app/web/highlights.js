() => {
  // The playhead of the curve follows the video, and a click on the curve moves the video. Installed once.
  if (window.genmmHighlights) return;
  window.genmmHighlights = true;
  const film = () => document.querySelector("#highlights-video video");
  const chart = () => document.querySelector("#highlights-curve svg");
  const move = () => {
    const video = film(), drawing = chart();
    const line = drawing && drawing.querySelector(".gm-playhead");
    if (!video || !line) return;
    const x = 1000 * Math.min(1, video.currentTime / Number(drawing.dataset.seconds));
    line.setAttribute("x1", x);
    line.setAttribute("x2", x);
  };
  for (const name of ["timeupdate", "seeked", "seeking"]) document.addEventListener(name, move, true);
  document.addEventListener("click", (event) => {
    const drawing = chart(), video = film();
    if (!drawing || !video || !drawing.contains(event.target)) return;
    const box = drawing.getBoundingClientRect();
    video.currentTime = Number(drawing.dataset.seconds) * (event.clientX - box.left) / box.width;
    move();
  });
}
