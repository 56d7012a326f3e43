(before, result, which) => {
  // Two buttons switch between the recording and the result at the same place; the one that plays is pressed.
  if (!before || !result) return;
  const urls = [before.url, result.url];
  let pair = window.genmmPair;
  const mark = () => ["before", "result"].forEach((name, index) => {
    const button = document.querySelector(`#music-hear-${name}`);
    const plays = !!window.genmmPair && !window.genmmPair.sounds[index].paused;
    if (!button) return;
    button.classList.toggle("gm-playing", plays);
    button.setAttribute("aria-pressed", String(plays));
  });
  if (!pair || pair.urls[0] !== urls[0] || pair.urls[1] !== urls[1]) {
    if (pair) pair.sounds.forEach((sound) => sound.pause());
    // Another edit of the same recording is heard from where the last one was.
    const heard = pair && pair.urls[0] === urls[0] ? pair.sounds[pair.last] : null;
    const from = heard && !heard.ended ? heard.currentTime : 0;
    pair = window.genmmPair = { urls, sounds: urls.map((url) => new Audio(url)), last: which };
    for (const sound of pair.sounds) sound.currentTime = from;
    for (const sound of pair.sounds) for (const event of ["play", "pause", "ended"]) sound.addEventListener(event, mark);
  }
  const chosen = pair.sounds[which], other = pair.sounds[1 - which];
  if (!chosen.paused) { chosen.pause(); return; }
  if (pair.last !== which) chosen.currentTime = other.ended ? 0 : other.currentTime;
  other.pause();
  pair.last = which;
  chosen.play().then(mark, mark);
}
