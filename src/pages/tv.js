// What the television shows: bars for a channel with labels and votes, a list for any other, and below, in words,
// when it asks again and why. ES5 throughout, one element at a time: sets of 2014 run this.
(function () {
  'use strict';

  var MOST_LINES = 8;
  var MOST_COLUMNS = 5;
  var FLASH_MS = 1500;
  var REASONS = {
    tick: 'a steady beat of changes',
    burst: 'burst of changes',
    idle: 'all is quiet',
    load: 'the server is busy',
    reset: 'starting over',
    offline: 'no answer from the server',
    refused: 'asked too often',
    unavailable: 'the server asks for patience',
    problem: 'the server refused'
  };

  var channel = parameter('channel') || 'options';
  var stage = byId('stage');
  var bars = {}; // key text -> the elements of one bar
  var dueAt = 0;
  var poller = new FreshetPoll(channel, { change: draw, asking: showAsking, waiting: showWaiting });

  // The rows

  function draw(entries, changed) {
    var shown = list(entries);
    setText('version', poller.version);
    if (shown.length > 0 && isPoll(shown[0].row)) drawBars(shown, changed);
    else drawLines(shown, changed);
  }

  function drawBars(shown, changed) {
    var most = 0;
    var kept = {};
    var i, entry;
    shown.sort(function (a, b) { return a.row.id - b.row.id; });
    for (i = 0; i < shown.length; i += 1) most = Math.max(most, Number(shown[i].row.votes) || 0);
    if (stage.className !== 'bars') reset('bars');
    for (i = 0; i < shown.length; i += 1) {
      entry = shown[i];
      kept[entry.key] = true;
      drawBar(entry, most, changed[entry.key], i);
    }
    for (i in bars) {
      if (!kept[i]) {
        stage.removeChild(bars[i].element);
        delete bars[i];
      }
    }
  }

  function drawBar(entry, most, changed, place) {
    var votes = Number(entry.row.votes) || 0;
    var bar = bars[entry.key] || createBar(entry);
    bar.label.textContent = String(entry.row.label);
    bar.votes.textContent = String(entry.row.votes === null ? 0 : entry.row.votes);
    bar.fill.style.width = (most === 0 ? 0 : 100 * votes / most) + '%';
    bar.element.className = votes > 0 && votes === most ? 'bar leads' : 'bar';
    if (stage.children[place] !== bar.element) stage.insertBefore(bar.element, stage.children[place] || null);
    if (changed) flash(bar.votes);
  }

  function createBar(entry) {
    var element = make('div', 'bar');
    var line = element.appendChild(make('div', 'line'));
    var bar = { element: element, label: line.appendChild(make('span', 'label')), votes: line.appendChild(make('span', 'votes')) };
    bar.fill = element.appendChild(make('div', 'track')).appendChild(make('div', 'fill'));
    element.setAttribute('data-testid', 'option-' + entry.row.id);
    bar.votes.setAttribute('data-testid', 'votes-' + entry.row.id);
    bars[entry.key] = bar;
    return bar;
  }

  function drawLines(shown, changed) {
    var total = shown.length;
    var columns = total > 0 ? Object.keys(shown[0].row).slice(0, MOST_COLUMNS) : [];
    var table = make('table', '');
    var i;
    // All of them in the order of the key, or those that changed last.
    if (total > MOST_LINES) shown.sort(function (a, b) { return b.touched - a.touched; });
    else shown.sort(function (a, b) { return compare(JSON.parse(a.key)[0], JSON.parse(b.key)[0]); });
    table.appendChild(line('th', columns, function (column) { return column; }));
    for (i = 0; i < Math.min(total, MOST_LINES); i += 1) {
      table.appendChild(line('td', columns, cellOf(shown[i].row))).className = changed[shown[i].key] ? 'changed' : '';
    }
    reset('lines');
    stage.appendChild(table);
    stage.appendChild(make('p', 'rest')).textContent = total === 0 ? 'No rows yet.' : total > MOST_LINES ? 'and ' + (total - MOST_LINES) + ' more rows' : '';
  }

  function line(tag, columns, textOf) {
    var row = make('tr', '');
    columns.forEach(function (column) { row.appendChild(make(tag, '')).textContent = textOf(column); });
    return row;
  }

  function cellOf(row) {
    return function (column) {
      var value = row[column];
      return value === null ? '–' : typeof value === 'object' ? JSON.stringify(value) : String(value);
    };
  }

  function reset(name) {
    while (stage.firstChild) stage.removeChild(stage.firstChild);
    stage.className = name;
    bars = {};
  }

  function flash(element) {
    element.className = 'votes changed';
    setTimeout(function () { element.className = 'votes'; }, FLASH_MS);
  }

  // When it asks again, and why

  function showAsking() {
    dueAt = 0;
    setText('next', 'asking now');
  }

  function showWaiting(at, waitMs, reason, problem, advisedMs) {
    var lost = reason === 'offline' || reason === 'refused' || reason === 'unavailable' || reason === 'problem';
    var state = lost ? 'offline' : 'live';
    dueAt = at;
    setText('state', state);
    byId('state').className = state;
    setText('reason', REASONS[reason] || reason);
    setText('interval', advisedMs === null ? '' : '· every ' + seconds(advisedMs) + ' s');
    if (problem) explain(problem);
    byId('reason').setAttribute('data-reason', reason);
    byId('foot').className = lost ? 'lost' : '';
    drain(waitMs);
    countDown();
  }

  // Rows that were true a moment ago are worth more than an error; before the first, there is room for it.
  function explain(problem) {
    if (poller.version !== null) return;
    reset('message');
    stage.appendChild(make('p', '')).textContent = problem;
  }

  function countDown() {
    if (dueAt === 0) return;
    setText('next', 'asks again in ' + Math.max(1, Math.ceil((dueAt - new Date().getTime()) / 1000)) + ' s');
  }

  // The level falls by one CSS transition as long as the wait: no work for a slow processor in between.
  function drain(waitMs) {
    var level = byId('level');
    setTransition(level, 'none');
    level.style.width = '100%';
    void level.offsetWidth; // so that the next width is a transition from the full one
    setTransition(level, 'width ' + Math.round(waitMs) + 'ms linear');
    level.style.width = '0%';
  }

  function setTransition(element, value) {
    element.style.webkitTransition = value;
    element.style.transition = value;
  }

  // Small things

  function seconds(ms) {
    return ms < 10000 ? (ms / 1000).toFixed(1) : String(Math.round(ms / 1000));
  }

  function isPoll(row) {
    return row.hasOwnProperty('id') && row.hasOwnProperty('label') && row.hasOwnProperty('votes');
  }

  function list(entries) {
    return Object.keys(entries).map(function (key) {
      return { key: key, row: entries[key].row, touched: entries[key].touched };
    });
  }

  // Exact numbers travel as strings: "10" still comes after "9".
  function compare(a, b) {
    var difference = Number(a) - Number(b);
    if (difference === difference) return difference;
    return String(a) < String(b) ? -1 : 1;
  }

  function byId(id) {
    return document.getElementById(id);
  }

  function make(tag, className) {
    var element = document.createElement(tag);
    element.className = className;
    return element;
  }

  function setText(id, text) {
    var element = byId(id);
    if (element.textContent !== text) element.textContent = text;
  }

  function parameter(name) {
    var match = new RegExp('[?&]' + name + '=([^&]*)').exec(location.search);
    try {
      return match ? decodeURIComponent(match[1].replace(/\+/g, ' ')) : null;
    } catch (error) {
      return null; // a stray % in the address
    }
  }

  document.title = channel + ' · Freshet TV';
  setText('title', channel);
  setInterval(countDown, 250);
  poller.start();
}());
