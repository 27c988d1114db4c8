// @ts-check
// Shows the rows of a log that can be seen, of all its lines. A row has a fixed height; a wrapped line has several. How
// many nodes there are depends on the height alone, whatever a program prints.

import { BOLD, ITALIC, STRIKE, UNDERLINE, colours, parse } from './ansi.js';
import { bytes, outcome, succeeded } from './format.js';
import { columnsOf, plainOf, slice, widthOf, wrap } from './loglines.js';

/** @typedef {import('./loglines.js').Line} Line */
/** @typedef {{ element: HTMLElement, line: Line, version: number, from: number, to: number }} Row */

export const ROW = 18;
/** Rows above and below those that can be seen. */
const BEYOND = 6;
/** The most elements for runs of text. A row with more than its share is drawn with gradients. */
const MOST_RUNS = 900;

export class LogRows {
    /** @type {Map<string, Row>} */
    #rows = new Map();
    /** @type {number[]} How many rows each line has, from `#countedFrom` on, while lines are wrapped. */
    #counts = [];
    #countedFrom = 0;
    /** @type {Map<number, number>} The versions in which lines that may change were counted. */
    #unsure = new Map();
    #first = 0;
    #total = 0;
    #widest = 0;
    #lastTop = 0;
    #height = 0;
    #width = 0;
    #frame = 0;
    #isWrapped = false;
    #columns = 80;
    /** Whether the end stays in view. */
    follows = true;
    /** The line that is marked. */
    marked = -1;

    /**
     * @param {HTMLElement} scroller
     * @param {import('./loglines.js').LogLines} lines
     * @param {{ followed: (follows: boolean) => void, rendered: (rows: Iterable<Row>) => void }} tell
     */
    constructor(scroller, lines, tell) {
        this.scroller = scroller;
        this.lines = lines;
        this.tell = tell;
        this.sizer = scroller.appendChild(document.createElement('div'));
        this.sizer.className = 'log-size';
        this.window = this.sizer.appendChild(document.createElement('div'));
        this.window.className = 'log-rows';
        this.probe = this.sizer.appendChild(document.createElement('span'));
        this.probe.className = 'log-probe';
        this.probe.textContent = '0'.repeat(100);
        this.probe.setAttribute('aria-hidden', 'true');
        scroller.addEventListener('scroll', () => this.#scrolled(), { passive: true });
        scroller.addEventListener('copy', (event) => this.#copy(event));
        this.observer = new ResizeObserver(() => this.#measure());
        this.observer.observe(scroller);
        this.#measure();
    }

    end() {
        this.observer.disconnect();
        cancelAnimationFrame(this.#frame);
    }

    /** Shows the log as it is now, in the next frame. */
    invalidate() {
        if (!this.#frame)
            this.#frame = requestAnimationFrame(() => {
                this.#frame = 0;
                this.#render();
            });
    }

    /** Forgets all rows, as the log has begun anew. */
    reset() {
        for (const { element } of this.#rows.values()) element.remove();
        this.#rows.clear();
        this.#counts = [];
        this.#unsure.clear();
        this.#countedFrom = this.#first = this.#widest = 0;
        this.follow(true);
    }

    /** @param {boolean} follows */
    follow(follows) {
        if (this.follows !== follows) {
            this.follows = follows;
            this.tell.followed(follows);
        }
        this.invalidate();
    }

    /** @param {boolean} isWrapped */
    setWrapped(isWrapped) {
        if (this.#isWrapped === isWrapped) return;
        const top = this.#lineAt(Math.floor(this.scroller.scrollTop / ROW)).seq;
        this.#isWrapped = isWrapped;
        this.#recount();
        if (!this.follows) {
            this.#count();
            this.scroller.scrollTop = this.#lastTop = this.#rowOf(top) * ROW;
        }
    }

    /** Brings a line into view. @param {number} seq */
    reveal(seq) {
        this.follow(false);
        this.marked = seq;
        this.#count();
        const top = this.#rowOf(seq) * ROW;
        if (top < this.scroller.scrollTop || top > this.scroller.scrollTop + this.#height - 2 * ROW) {
            this.#resize();
            this.scroller.scrollTop = Math.max(0, top - this.#height / 3);
            this.#lastTop = this.scroller.scrollTop;
        }
        this.invalidate();
    }

    /** The line at the top of what can be seen. */
    get top() {
        return this.#lineAt(Math.floor(this.scroller.scrollTop / ROW)).seq;
    }

    #measure() {
        this.#height = this.scroller.clientHeight;
        const column = this.probe.getBoundingClientRect().width / 100 || 8;
        this.#width = this.scroller.clientWidth;
        const columns = Math.max(20, Math.floor((this.#width - 72) / column));
        if (columns !== this.#columns) {
            this.#columns = columns;
            if (this.#isWrapped) this.#recount();
        }
        this.invalidate();
    }

    #recount() {
        this.#counts = [];
        this.#countedFrom = this.lines.first;
        this.#unsure.clear();
        this.reuseNone();
        this.invalidate();
    }

    reuseNone() {
        for (const { element } of this.#rows.values()) element.remove();
        this.#rows.clear();
    }

    #scrolled() {
        const { scrollTop } = this.scroller;
        const isAtEnd = scrollTop + this.#height >= this.#total * ROW - 2;
        if (scrollTop < this.#lastTop - 1 && !isAtEnd) this.follow(false);
        else if (isAtEnd && scrollTop > this.#lastTop + 1) this.follow(true);
        this.#lastTop = scrollTop;
        this.invalidate();
    }

    /**
     * Counts the rows of lines that are new or have changed, and notes how many rows have gone at the top.
     * @returns {number} rows that have gone
     */
    #count() {
        const { lines } = this;
        let gone = lines.first - this.#first;
        this.#first = lines.first;
        if (!this.#isWrapped) {
            this.#total = lines.end - lines.first;
            return gone;
        }
        gone = 0;
        const drop = Math.min(this.#counts.length, lines.first - this.#countedFrom);
        if (drop > 0) for (const n of this.#counts.splice(0, drop)) gone += n;
        this.#countedFrom = lines.first;
        for (const [seq, version] of this.#unsure) {
            const line = lines.at(seq);
            if (line && line.version !== version) this.#counts[seq - lines.first] = this.#rowsOf(line);
            if (!line || !lines.isOpen(seq)) this.#unsure.delete(seq);
            else this.#unsure.set(seq, line.version);
        }
        for (let seq = lines.first + this.#counts.length; seq < lines.end; seq++) {
            const line = /** @type {Line} */ (lines.at(seq));
            this.#counts.push(this.#rowsOf(line));
            this.#unsure.set(seq, line.version);
        }
        this.#total = this.#counts.reduce((sum, n) => sum + n, 0);
        return gone;
    }

    /** @param {Line} line */
    #rowsOf(line) {
        return line.kind === 'output' ? wrap(plainOf(line), this.#columns).length : 1;
    }

    /** The first row of a line. @param {number} seq */
    #rowOf(seq) {
        const index = Math.max(0, seq - this.lines.first);
        if (!this.#isWrapped) return index;
        let row = 0;
        for (let i = 0; i < index && i < this.#counts.length; i++) row += this.#counts[i];
        return row;
    }

    /**
     * The line at a row, and which of its rows that is.
     * @param {number} row
     * @returns {{ seq: number, part: number }}
     */
    #lineAt(row) {
        if (!this.#isWrapped) return { seq: this.lines.first + row, part: 0 };
        let [at, i] = [0, 0];
        while (i < this.#counts.length && at + this.#counts[i] <= row) at += this.#counts[i++];
        return { seq: this.lines.first + i, part: row - at };
    }

    #resize() {
        this.sizer.style.height = `${this.#total * ROW}px`;
    }

    #render() {
        const gone = this.#count();
        this.#resize();
        if (this.follows) this.scroller.scrollTop = this.#total * ROW;
        else if (gone) this.scroller.scrollTop = Math.max(0, this.#lastTop - gone * ROW);
        this.#lastTop = this.scroller.scrollTop;
        const begin = Math.max(0, Math.floor(this.#lastTop / ROW) - BEYOND);
        const end = Math.min(this.#total, Math.ceil((this.#lastTop + this.#height) / ROW) + BEYOND);
        const share = Math.max(4, Math.floor(MOST_RUNS / Math.max(1, this.#height / ROW + 2 * BEYOND)));
        /** @type {Map<string, Row>} */
        const rows = new Map();
        let { seq, part } = this.#lineAt(begin);
        for (let row = begin; row < end; row++) {
            const line = this.lines.at(seq);
            if (!line) break;
            const key = `${seq} ${part}`;
            const old = this.#rows.get(key);
            rows.set(key, old?.version === line.version ? old : this.#make(line, part, share));
            const count = this.#isWrapped ? this.#counts[seq - this.lines.first] : 1;
            if (++part >= count) [seq, part] = [seq + 1, 0];
        }
        for (const [key, row] of this.#rows) if (rows.get(key) !== row) row.element.remove();
        let before = this.window.firstChild;
        for (const { element, line } of rows.values()) {
            if (element === before) before = before.nextSibling;
            else this.window.insertBefore(element, before);
            element.classList.toggle('at', line.seq === this.marked);
        }
        this.#rows = rows;
        this.window.style.transform = `translateY(${begin * ROW}px)`;
        this.window.style.minWidth = this.#isWrapped ? '100%' : `calc(72px + ${this.#widest}ch)`;
        this.tell.rendered(rows.values());
    }

    /** @param {Line} line @param {number} part @param {number} share @returns {Row} */
    #make(line, part, share) {
        const element = document.createElement('div');
        element.className = line.stream === 'stderr' ? 'log-row err' : 'log-row';
        const row = { element, line, version: line.version, from: 0, to: Infinity };
        if (line.kind !== 'output') {
            element.classList.add('log-mark');
            if (line.outcome) element.classList.add(succeeded(line.outcome) ? 'well' : 'badly');
            element.textContent = describe(line);
            return row;
        }
        let runs = parse(line.text, line.style);
        if (this.#isWrapped) {
            const begins = wrap(plainOf(line), this.#columns);
            [row.from, row.to] = [begins[part] ?? 0, begins[part + 1] ?? Infinity];
            runs = slice(runs, row.from, row.to);
        } else {
            this.#widest = Math.max(this.#widest, widthOf(plainOf(line)));
        }
        if (part || line.isMore) element.classList.add('more');
        else element.dataset.n = String(line.n);
        if (runs.length > share) element.append(dense(runs));
        else for (const run of runs) element.append(shown(run));
        return row;
    }

    /** Copies rows as the lines that they are. @param {ClipboardEvent} event */
    #copy(event) {
        const selection = getSelection();
        if (!selection?.rangeCount || !event.clipboardData) return;
        const rows = [...selection.getRangeAt(0).cloneContents().querySelectorAll('.log-row')];
        if (!rows.length) return;
        const text = rows
            .map((row, i) => `${i && !row.classList.contains('more') ? '\n' : ''}${row.textContent}`)
            .join('');
        event.clipboardData.setData('text/plain', text);
        event.preventDefault();
    }
}

/** What stands between lines of output. @param {Line} line */
export function describe(line) {
    if (line.kind === 'gap')
        return `… ${bytes(Number(line.text))} of ${line.stream} are missing here: they are no longer kept …`;
    if (line.kind === 'attempt')
        return `attempt ${line.attempt}${line.outcome ? ` ended: ${outcome(line.outcome)}` : ' started'}`;
    return line.text;
}

/** @param {import('./ansi.js').Run} run @returns {Node} */
function shown({ text, style }) {
    const { color, background } = colours(style, text);
    if (!color && !background && !style.flags && !style.link) return document.createTextNode(text);
    const element = document.createElement(style.link ? 'a' : 'span');
    if (element instanceof HTMLAnchorElement) {
        element.href = style.link;
        element.target = '_blank';
        element.rel = 'noopener noreferrer';
        element.title = style.link;
    }
    if (color) element.style.color = color;
    if (background) element.style.backgroundColor = background;
    if (style.flags & BOLD) element.classList.add('b');
    if (style.flags & ITALIC) element.classList.add('i');
    if (style.flags & UNDERLINE) element.classList.add('u');
    if (style.flags & STRIKE) element.classList.add('s');
    element.textContent = text;
    return element;
}

/**
 * A row with very many colours as one element: gradients with hard stops colour the text and what is behind it.
 * @param {import('./ansi.js').Run[]} runs
 */
function dense(runs) {
    /** @type {string[][]} */
    const [texts, grounds] = [[], []];
    let column = 0;
    for (const { text, style } of runs) {
        const begin = column;
        for (const character of text) column += columnsOf(character, column);
        const { color, background } = colours(style, text);
        texts.push(`${color || '#e6edf3'} ${begin}ch ${column}ch`);
        grounds.push(`${background || 'transparent'} ${begin}ch ${column}ch`);
    }
    const ground = document.createElement('span');
    ground.className = 'dense';
    ground.style.backgroundImage = `linear-gradient(to right, ${grounds.join(', ')})`;
    const front = ground.appendChild(document.createElement('span'));
    front.style.backgroundImage = `linear-gradient(to right, ${texts.join(', ')})`;
    front.textContent = runs.map((run) => run.text).join('');
    return ground;
}
