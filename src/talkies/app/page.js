// The driving video plays in step with the film beside it.
(() => {
  const driver = (film) => film.closest(".films").querySelector("video.follows");
  const meet = (film, within) => {
    const other = driver(film);
    if (Math.abs(other.currentTime - film.currentTime) > within) other.currentTime = film.currentTime;
    other.playbackRate = film.playbackRate;
  };
  const on = (event, act) =>
    document.addEventListener(event, (e) => e.target.matches && e.target.matches("video.leads") && act(e.target), true);
  on("play", (film) => { meet(film, 0.02); driver(film).play().catch(() => {}); });
  on("pause", (film) => { driver(film).pause(); meet(film, 0.02); });
  on("seeking", (film) => meet(film, 0.02));
  on("ratechange", (film) => meet(film, 0.1));
  on("timeupdate", (film) => meet(film, 0.1));
})();
