// @ts-check
// Charts as SVG. Each says in words what it shows, and has its numbers as a table.

import { signal } from './signals.js';
import { html, svg } from './view.js';

/** The width that a panel over the whole page leaves to a chart, in px: text in a chart keeps its size at any width. */
const pageWidth = signal(widthNow());
addEventListener('resize', () => {
    pageWidth.value = widthNow();
});

function widthNow() {
    return Math.max(240, Math.min(1240, document.documentElement.clientWidth) - 66);
}

/** @typedef {{ name: string, tone: string, values: (number | null)[] }} Series `tone`: a class that gives the colour */

/** The width of a chart that gets this part of the page, in px; on narrow screens all get the whole. @param {number} share */
export function chartWidth(share = 1) {
    return pageWidth.value < 800 ? pageWidth.value : Math.round(pageWidth.value * share);
}

/** A round number not below `most`, and the steps up to it, none below `least`. @param {number} most @returns {number[]} */
export function ticks(most, wanted = 4, least = 0) {
    const top = most > 0 ? most : 1;
    const rough = Math.max(least, top / wanted);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough) ?? rough;
    const all = [];
    for (let at = 0; at < top + step; at += step) all.push(Number(at.toPrecision(6)));
    return all;
}

/** @param {(number | null)[]} values @param {(i: number) => number} x @param {(v: number) => number} y */
function line(values, x, y) {
    let path = '';
    let pen = 'M';
    values.forEach((value, i) => {
        if (value === null) {
            pen = 'M';
            return;
        }
        path += `${pen}${x(i).toFixed(1)} ${y(value).toFixed(1)}`;
        pen = 'L';
    });
    return path;
}

/** A line without axes. @param {number[]} values @param {string} label @param {string} [tone] */
export function sparkline(values, label, tone = 'accent') {
    const [width, height] = [96, 24];
    const most = Math.max(...values, 1);
    const x = (/** @type {number} */ i) => 2 + (i * (width - 4)) / Math.max(values.length - 1, 1);
    const y = (/** @type {number} */ v) => height - 2 - (v * (height - 4)) / most;
    return html`<svg class="spark ${tone}" viewBox="0 0 ${width} ${height}" role="img" aria-label=${label}>
        <path class="line" d=${line(values, x, y)} />
    </svg>`;
}

/**
 * Lines over time, with axes, a legend and a table.
 * @param {{ label: string, times: (string | number)[], series: Series[], format?: (n: number) => string,
 *   time: (at: string | number) => string, height?: number, unknownUntil?: number, caption?: unknown, share?: number }} chart
 *   `unknownUntil`: so many of the first values are not known; `share`: the part of the page's width that it gets
 */
export function timeChart({ label, times, series, format = String, time, height = 200, unknownUntil = 0, caption, share = 1 }) {
    const width = chartWidth(share);
    const [left, bottom, top] = [44, 22, 8];
    const most = Math.max(1, ...series.flatMap((s) => s.values.map((v) => v ?? 0)));
    // What is counted has no halves.
    const isCount = series.every((s) => s.values.every((v) => v === null || Number.isInteger(v)));
    const marks = ticks(most, 4, isCount ? 1 : 0);
    const highest = marks[marks.length - 1];
    const step = (width - left - 8) / Math.max(times.length - 1, 1);
    const x = (/** @type {number} */ i) => left + i * step;
    const y = (/** @type {number} */ v) => top + (height - top - bottom) * (1 - v / highest);
    const every = Math.max(1, Math.ceil(times.length / Math.max(2, Math.floor(width / 110))));
    return html`<figure class="chart">
        <figcaption>
            <span class="chart-title">${label}</span>
            <span class="legend">${series.map((s) => html`<span class="key ${s.tone}">${s.name}</span>`)}</span>
        </figcaption>
        <svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${label}. The numbers are in the table below.">
            ${marks.map((mark) => svg`<line class="grid" x1=${left} x2=${width - 8} y1=${y(mark)} y2=${y(mark)} />
                <text class="tick" x=${left - 6} y=${y(mark) + 4} text-anchor="end">${format(mark)}</text>`)}
            ${times.map((at, i) => i % every === 0 ? svg`<text class="tick" x=${x(i)} y=${height - 6} text-anchor="middle">${time(at)}</text>` : null)}
            ${unknownUntil > 0 ? svg`<rect class="unknown" x=${left} y=${top} width=${Math.max(0, x(unknownUntil) - left)} height=${height - top - bottom} />` : null}
            ${series.map((s) => svg`<path class="line ${s.tone}" d=${line(s.values, x, y)} />`)}
        </svg>
        ${caption ? html`<p class="muted small">${caption}</p>` : null}
        ${asTable(['time', ...series.map((s) => s.name)], times.map((at, i) => [time(at), ...series.map((s) => s.values[i] === null ? '–' : format(/** @type {number} */ (s.values[i])))]))}
    </figure>`;
}

/**
 * Bars with a label each.
 * @param {{ label: string, bars: { name: string, value: number, tone?: string, text?: string }[], format?: (n: number) => string }} chart
 */
export function barChart({ label, bars, format = String }) {
    const most = Math.max(...bars.map((b) => b.value), 1e-9);
    return html`<figure class="chart">
        <figcaption><span class="chart-title">${label}</span></figcaption>
        <div class="bars">${bars.map((bar) => html`
            <span class="bar-name">${bar.name}</span>
            <span class="bar-track"><span class="bar ${bar.tone ?? 'accent'}" style=${{ width: `${(100 * bar.value) / most}%` }}></span></span>
            <span class="number">${bar.text ?? format(bar.value)}</span>`)}
        </div>
    </figure>`;
}

/** The numbers of a chart. @param {string[]} heads @param {unknown[][]} rows */
export function asTable(heads, rows) {
    return html`<details class="as-table"><summary>as table</summary><div class="scroll" tabindex="0"><table>
        <thead><tr>${heads.map((head, i) => html`<th scope="col" class=${i ? 'number' : ''}>${head}</th>`)}</tr></thead>
        <tbody>${rows.map((row) => html`<tr>${row.map((cell, i) => html`<td class=${i ? 'number' : ''}>${cell}</td>`)}</tr>`)}</tbody>
    </table></div></details>`;
}

/** A share with its 95 % band, as a mark in a track. @param {{ rate: number | null, low: number, high: number, n: number, hits: number }} rate @param {string} label */
export function rateBand(rate, label) {
    if (rate.n === 0) return html`<span class="muted">–</span>`;
    const [width, height] = [120, 14];
    const x = (/** @type {number} */ share) => 2 + share * (width - 4);
    return html`<svg class="band" viewBox="0 0 ${width} ${height}" role="img" aria-label=${label}>
        <line class="grid" x1=${x(0)} x2=${x(1)} y1=${height / 2} y2=${height / 2} />
        <rect class="range" x=${x(rate.low)} y="3" width=${Math.max(1, x(rate.high) - x(rate.low))} height=${height - 6} />
        ${rate.rate === null ? null : svg`<line class="value" x1=${x(rate.rate)} x2=${x(rate.rate)} y1="1" y2=${height - 1} />`}
    </svg>`;
}
