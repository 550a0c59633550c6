"use strict";
// The colours that the reader chose, before anything is shown; kept for all pages of talkies in this browser.
{
  const KEY = "talkies colours", root = document.documentElement;
  const chosen = () => { try { return localStorage.getItem(KEY) || ""; } catch { return ""; } };
  const show = colours => { root.dataset.colours = colours; };
  show(chosen());
  addEventListener("DOMContentLoaded", () => {
    const label = document.getElementById("colours"), select = label.querySelector("select");
    label.hidden = false;
    select.value = chosen();
    select.onchange = () => {
      show(select.value);
      try { localStorage.setItem(KEY, select.value); } catch { /* for this page alone, then */ }
    };
    addEventListener("storage", event => { if (event.key === KEY) show(select.value = chosen()); });
  });
}
