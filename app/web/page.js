// Light and dark by a button. The choice is kept in this browser; without one the page follows the system.
(() => {
  const key = "genmm-theme";
  const apply = (mode) => document.body && document.body.classList.toggle("dark", mode === "dark");
  const stored = () => {
    try { return localStorage.getItem(key); } catch { return null; }
  };
  window.genmmTheme = () => {
    const mode = document.body.classList.contains("dark") ? "light" : "dark";
    try { localStorage.setItem(key, mode); } catch { /* private browsing: lasts until the page is closed */ }
    apply(mode);
  };
  // Gradio sets the system's mode when it has started, so ours is applied then as well.
  document.addEventListener("DOMContentLoaded", () => {
    const mode = stored();
    if (!mode) return;
    apply(mode);
    const waiting = new MutationObserver(() => {
      if (document.querySelector(".gm-header")) {
        apply(mode);
        waiting.disconnect();
      }
    });
    waiting.observe(document.body, { childList: true, subtree: true });
  });
})();

// A video that the browser cannot play may still be read on the server: the player says so (see style.css) and nothing
// turns red. Media events do not bubble, so they are caught on their way down, before Gradio hears of them.
(() => {
  const film = (event) => (event.target instanceof HTMLVideoElement ? event.target : null);
  document.addEventListener("error", (event) => {
    if (!film(event)) return;
    event.stopImmediatePropagation();
    film(event).classList.add("gm-unplayable");
  }, true);
  document.addEventListener("loadstart", (event) => film(event)?.classList.remove("gm-unplayable"), true);
})();
