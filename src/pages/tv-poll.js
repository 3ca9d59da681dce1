// Asks for changes like a television can: ES5, XMLHttpRequest, no header of its own (so no CORS preflight).
// It follows the server's advice when to ask, holds exactly the rows of the version it names, and never gives up.
/* exported FreshetPoll */
var FreshetPoll = (function () {
  'use strict';

  var PART = 500; // changes an answer: small memories parse small bodies
  var TIMEOUT_MS = 15000;
  var DEFAULT_MS = 5000; // an answer without advice
  var SHORTEST_MS = 250;
  var FIRST_RETRY_MS = 1000;
  var LAST_RETRY_MS = 60000;
  var ASLEEP_MS = 5000;
  var WAKE_ONCE_MS = 1000;

  // `on`: change(entries, changedKeys), asking(), waiting(dueAt, waitMs, reason, problem, advisedMs or null)
  function FreshetPoll(channel, on) {
    this.base = '/v1/channels/' + encodeURIComponent(channel) + '/changes?limit=' + PART;
    this.on = on;
    this.entries = {}; // key text -> { row, touched }
    this.version = null;
    this.touches = 0;
    this.startOver();
    this.failures = 0;
    this.isBack = false; // it asks out of turn, perhaps with thousands of others
    this.request = null;
    this.timer = 0;
    this.wokenAt = 0;
  }

  FreshetPoll.prototype.start = function () {
    this.wakeWithTheScreen();
    this.ask();
  };

  FreshetPoll.prototype.ask = function () {
    var self = this;
    var request = new XMLHttpRequest();
    var done = false;
    clearTimeout(this.timer);
    this.drop();
    this.request = request;
    this.on.asking();

    function finish(handle) {
      return function () {
        if (done || self.request !== request) return; // an answer to a question we no longer ask
        done = true;
        clearTimeout(watchdog);
        self.request = null;
        handle.call(self, request);
      };
    }
    request.open('GET', this.base + (this.cursor === null ? '' : '&since=' + encodeURIComponent(this.cursor)), true);
    request.timeout = TIMEOUT_MS;
    request.onload = finish(this.answered);
    request.onerror = request.ontimeout = request.onabort = finish(this.unanswered);
    // Some sets ignore `timeout`.
    var watchdog = setTimeout(finish(function () {
      request.abort();
      self.unanswered();
    }), TIMEOUT_MS + 1000);
    request.send();
  };

  FreshetPoll.prototype.drop = function () {
    var request = this.request;
    this.request = null;
    if (request !== null) request.abort();
  };

  FreshetPoll.prototype.answered = function (request) {
    var delta = null;
    if (request.status === 304) return this.succeeded(request, {});
    if (request.status !== 200) return this.refused(request);
    try {
      delta = JSON.parse(request.responseText);
    } catch (error) {
      return this.unanswered(); // cut short on the way
    }
    if (!this.take(delta)) {
      this.startOver();
      return this.waitFor(FIRST_RETRY_MS, 'reset', null);
    }
    if (delta.more) return this.ask();
    this.succeeded(request, delta);
  };

  // Parts of one answer carry equal versions and are applied together. False: this part does not continue ours.
  FreshetPoll.prototype.take = function (delta) {
    var first = this.parts[0];
    if (first && (first.version !== delta.version || first.since !== delta.since)) {
      if (!delta.reset) return false;
      this.parts = [];
    }
    this.parts.push(delta);
    if (delta.more) {
      this.cursor = delta.next;
      return true;
    }
    this.apply(this.parts);
    this.version = delta.version;
    this.startOver();
    return true;
  };

  // Forget half an answer, not the rows: the next question is from the version they are of.
  FreshetPoll.prototype.startOver = function () {
    this.parts = [];
    this.cursor = this.version;
  };

  FreshetPoll.prototype.apply = function (parts) {
    var changed = {};
    var i, j, change, key;
    if (parts[0].reset) this.entries = {};
    for (i = 0; i < parts.length; i += 1) {
      for (j = 0; j < parts[i].changes.length; j += 1) {
        change = parts[i].changes[j];
        key = keyOf(change.key);
        this.touches += 1;
        if (change.op === 'upsert') this.entries[key] = { row: change.row, touched: this.touches };
        else delete this.entries[key];
        if (!parts[0].reset) changed[key] = true;
      }
    }
    this.version = parts[0].version;
    this.on.change(this.entries, changed);
  };

  FreshetPoll.prototype.succeeded = function (request, delta) {
    var advised = Number(delta.poll_after_ms || header(request, 'Poll-After-Ms')) || DEFAULT_MS;
    // A cache has held the answer for `Age` seconds; the advice counts from when it was given.
    var waitMs = Math.max(SHORTEST_MS, advised - 1000 * (Number(header(request, 'Age')) || 0));
    // Everybody gets the same advice: 2 to 5 % of one's own keeps a thousand screens from asking at once. After a
    // failure or a sleep that a thousand may have shared, a phase of one's own, once.
    var share = this.isBack ? 0.3 + 0.7 * Math.random() : 1.02 + 0.03 * Math.random();
    this.failures = 0;
    this.isBack = false;
    this.waitFor(Math.max(SHORTEST_MS, waitMs * share), delta.poll_reason || header(request, 'Poll-Reason') || 'idle', null, advised);
  };

  FreshetPoll.prototype.refused = function (request) {
    var patienceMs = retryAfterMs(header(request, 'Retry-After'));
    var busy = request.status === 429 || request.status >= 500;
    var problem = detailOf(request);
    this.failures += 1;
    this.isBack = true;
    if (request.status === 400) {
      this.version = null; // the cursor, most likely: ask for everything
      this.startOver();
    }
    if (busy) this.waitFor(Math.max(patienceMs * (1.02 + 0.2 * Math.random()), this.backOffMs()), request.status === 429 ? 'refused' : 'unavailable', problem);
    else this.waitFor(Math.max(patienceMs, LAST_RETRY_MS / 4 + this.backOffMs()), 'problem', problem);
  };

  FreshetPoll.prototype.unanswered = function () {
    this.failures += 1;
    this.isBack = true;
    this.waitFor(this.backOffMs(), 'offline', null);
  };

  // 1, 2, 4 … 60 s, half of it by chance.
  FreshetPoll.prototype.backOffMs = function () {
    var most = Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * Math.pow(2, Math.min(10, this.failures - 1)));
    return most * (0.5 + 0.5 * Math.random());
  };

  FreshetPoll.prototype.waitFor = function (waitMs, reason, problem, advisedMs) {
    var self = this;
    clearTimeout(this.timer);
    this.timer = setTimeout(function () { self.ask(); }, waitMs);
    this.on.waiting(new Date().getTime() + waitMs, waitMs, reason, problem, advisedMs || null);
  };

  // A set in standby stops all timers and drops its sockets without a word. Whatever sign of life comes first,
  // ask at once; a clock that jumps is the only sign some of them give.
  FreshetPoll.prototype.wakeWithTheScreen = function () {
    var self = this;
    var tickedAt = new Date().getTime();
    function wake() {
      var now = new Date().getTime();
      if (now - self.wokenAt < WAKE_ONCE_MS) return; // the events come in bunches
      self.wokenAt = now;
      self.isBack = true;
      self.ask();
    }
    function seen() {
      if (!(document.hidden || document.webkitHidden)) wake();
    }
    document.addEventListener('visibilitychange', seen, false);
    document.addEventListener('webkitvisibilitychange', seen, false);
    window.addEventListener('online', wake, false);
    window.addEventListener('pageshow', function (event) { if (event.persisted) wake(); }, false);
    setInterval(function () {
      var now = new Date().getTime();
      if (Math.abs(now - tickedAt) > ASLEEP_MS) seen();
      tickedAt = now;
    }, 1000);
  };

  function keyOf(key) {
    return JSON.stringify(Object.keys(key).sort().map(function (column) { return key[column]; }));
  }

  function header(request, name) {
    try {
      return request.getResponseHeader(name);
    } catch (error) {
      return null; // another origin that does not expose it
    }
  }

  function retryAfterMs(text) {
    if (!text) return 0;
    if (/^\d+$/.test(text)) return Number(text) * 1000;
    return Math.max(0, (Date.parse(text) || 0) - new Date().getTime());
  }

  function detailOf(request) {
    try {
      var problem = JSON.parse(request.responseText);
      return problem.detail || problem.title || null;
    } catch (error) {
      return 'The server answered ' + request.status + '.';
    }
  }

  return FreshetPoll;
}());
