// @ts-check
// More charts: columns by day, steps with a band, quantiles on a logarithmic track.

import { asTable, chartWidth, ticks } from './charts.js';
import { count, duration } from './format.js';
import { interval, share } from './rates.js';
import { html, svg } from './view.js';

/** @typedef {{ day: string, count: number }} DayCount */

/** The counts of a trend, or none where the server does not tell it. @param {any} trend @returns {DayCount[]} */
export const trendOf = (trend) => (Array.isArray(trend) ? trend : []);

/**
 * A column for each day.
 * @param {{ label: string, days: DayCount[], tone?: string, height?: number, share?: number }} chart
 */
export function dayColumns({ label, days, tone = 'failed', height = 160, share = 1 }) {
    const width = chartWidth(share);
    const [left, bottom, top] = [44, 22, 8];
    const marks = ticks(Math.max(4, ...days.map((d) => d.count)));
    const highest = marks[marks.length - 1];
    const step = (width - left - 8) / Math.max(days.length, 1);
    const y = (/** @type {number} */ n) => top + (height - top - bottom) * (1 - n / highest);
    const every = Math.max(1, Math.ceil(days.length / Math.max(2, Math.floor(width / 90))));
    return html`<figure class="chart">
        <figcaption><span class="chart-title">${label}</span></figcaption>
        <svg class=${tone} viewBox="0 0 ${width} ${height}" role="img"
            aria-label="${label}. The numbers are in the table below.">
            ${marks.map((mark) => svg`<line class="grid" x1=${left} x2=${width - 8} y1=${y(mark)} y2=${y(mark)} />
                <text class="tick" x=${left - 6} y=${y(mark) + 4} text-anchor="end">${count(mark)}</text>`)}
            ${days.map(({ day, count: n }, i) => svg`
                <rect class="column" x=${left + i * step + step * 0.1} y=${y(n)} width=${step * 0.8}
                    height=${y(0) - y(n)}><title>${day}: ${count(n)}</title></rect>`)}
            ${days.map(({ day }, i) => (days.length - 1 - i) % every === 0 ? svg`
                <text class="tick" x=${left + (i + 0.5) * step} y=${height - 6}
                    text-anchor="middle">${day.slice(5)}</text>` : null)}
        </svg>
        ${asTable(['day (UTC)', 'failures'], days.map((d) => [d.day, count(d.count)]))}
    </figure>`;
}

/**
 * Shares from 0 to 1 that hold for whole numbers, each with its band.
 * @typedef {{ at: number, value: number | null, low: number | null, high: number | null }} Step
 * @param {{ label: string, axis: string, steps: Step[], marked: number, table: unknown, height?: number }} chart
 *   `marked`: the number that the user asks about
 */
export function stepChart({ label, axis, steps, marked, table, height = 240 }) {
    const width = chartWidth();
    const [left, bottom, top] = [48, 38, 10];
    const wide = (width - left - 8) / Math.max(steps.length, 1);
    const x = (/** @type {number} */ i) => left + i * wide;
    const y = (/** @type {number} */ part) => top + (height - top - bottom) * (1 - part);
    const every = Math.max(1, Math.ceil(steps.length / Math.max(2, Math.floor(width / 44))));
    return html`<figure class="chart">
        <figcaption><span class="chart-title">${label}</span>
            <span class="legend"><span class="key accent">estimate</span><span
                class="key accent faint">95 % band</span></span>
        </figcaption>
        <svg class="accent" viewBox="0 0 ${width} ${height}" role="img"
            aria-label="${label}. The numbers are in the table below.">
            ${steps.map((step, i) => step.at === marked
                ? svg`<rect class="unknown" x=${x(i)} y=${top} width=${wide} height=${height - top - bottom} />`
                : null)}
            ${[0, 0.25, 0.5, 0.75, 1].map((mark) => svg`
                <line class="grid" x1=${left} x2=${width - 8} y1=${y(mark)} y2=${y(mark)} />
                <text class="tick" x=${left - 6} y=${y(mark) + 4} text-anchor="end">${mark * 100} %</text>`)}
            ${steps.map((step, i) => step.low === null || step.high === null ? null : svg`
                <rect class="range" x=${x(i)} y=${y(step.high)} width=${wide}
                    height=${Math.max(1, y(step.low) - y(step.high))}><title>${step.at}: ${step.value === null
                        ? 'too few' : share(step.value)} (${interval(step.low, step.high)})</title></rect>`)}
            <path class="line" d=${stairs(steps, x, y)} />
            ${steps.map((step, i) => step.at % every && step.at !== 1 ? null : svg`
                <text class="tick" x=${x(i) + wide / 2} y=${height - 22} text-anchor="middle">${step.at}</text>`)}
            <text class="tick" x=${left + (width - left) / 2} y=${height - 5} text-anchor="middle">${axis}</text>
        </svg>
        ${table}
    </figure>`;
}

/** @param {Step[]} steps @param {(i: number) => number} x @param {(part: number) => number} y */
function stairs(steps, x, y) {
    let path = '';
    steps.forEach(({ value }, i) => {
        if (value === null) return;
        const isGap = i === 0 || steps[i - 1].value === null;
        const height = y(value).toFixed(1);
        path += `${isGap ? 'M' : 'L'}${x(i).toFixed(1)} ${height}L${x(i + 1).toFixed(1)} ${height}`;
    });
    return path;
}

/** @typedef {{ n: number, p50: number | null, p90: number | null, p99: number | null }} Quantiles */

/** The ends of a logarithmic track for all of these. @param {Quantiles[]} all @returns {[number, number]} */
export function logSpan(all) {
    const values = all.flatMap((q) => [q.p50, q.p99]).filter((v) => v !== null && v > 0).map(Number);
    if (!values.length) return [0.001, 1];
    return [10 ** Math.floor(Math.log10(Math.min(...values))), 10 ** Math.ceil(Math.log10(Math.max(...values)) + 1e-9)];
}

/**
 * Half, nine of ten and 99 of 100 of some seconds as marks in a track.
 * @param {Quantiles} q @param {[number, number]} span @param {string} what
 */
export function quantileTrack(q, [from, to], what) {
    if (q.p50 === null || q.p90 === null || q.p99 === null) return html`<span class="muted">none yet</span>`;
    const [width, height] = [180, 14];
    const x = (/** @type {number} */ v) => 2
        + ((width - 4) * Math.log10(Math.max(v, from) / from)) / Math.log10(to / from);
    const words = [q.p50, q.p90, q.p99].map((s) => duration(s * 1000));
    return html`<svg class="quantiles accent" viewBox="0 0 ${width} ${height}" role="img"
        aria-label="${what}: half within ${words[0]}, 90 % within ${words[1]}, 99 % within ${words[2]}">
        <line class="grid" x1="2" x2=${width - 2} y1=${height / 2} y2=${height / 2} />
        <rect class="range" x=${x(q.p50)} y="3" width=${Math.max(2, x(q.p99) - x(q.p50))} height=${height - 6} />
        <line class="value" x1=${x(q.p50)} x2=${x(q.p50)} y1="1" y2=${height - 1} />
        <line class="line" x1=${x(q.p90)} x2=${x(q.p90)} y1="3" y2=${height - 3} />
        <line class="line" x1=${x(q.p99)} x2=${x(q.p99)} y1="3" y2=${height - 3} />
    </svg>`;
}
