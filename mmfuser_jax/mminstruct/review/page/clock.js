// How long a person looks at an item: only while the page can be seen, and up to a limit.

export const clock = {
  most: Infinity,
  before: 0, // seconds, until `since`
  since: null, // when the page came to be seen

  begin(seconds = 0) {
    this.before = seconds;
    this.since = document.hidden ? null : performance.now();
  },

  seconds() {
    const now = this.since === null ? 0 : (performance.now() - this.since) / 1000;
    return Math.min(this.most, this.before + now);
  },
};

document.addEventListener("visibilitychange", () => clock.begin(clock.seconds()));
