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
