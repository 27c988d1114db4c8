// @ts-check
// Shares with what is known of them: never a bare percentage.

import { rateBand } from './charts.js';
import { count } from './format.js';
import { html } from './view.js';

/** @typedef {{ n: number, hits: number, rate: number | null, low: number | null, high: number | null }} Rate */
/** @typedef {{ n: number, rests_on: number, chance: number | null, low: number | null, high: number | null }} Chance */

/** The server tells no rate of fewer. */
export const FEWEST = 5;

/** 0.123 as `12 %`, with a decimal where whole percents would hide the difference to 0 or 1. @param {number} part */
export function share(part) {
    // What is nearer to an end than this is a rounding error of the limits.
    if (Math.abs(part - Math.round(part)) < 1e-9) part = Math.round(part);
    const isExact = part === 0 || part === 1;
    const text = (part * 100).toFixed(!isExact && (part < 0.1 || part > 0.9) ? 1 : 0);
    if (!isExact && text === '0.0') return 'under 0.1 %';
    if (!isExact && text === '100.0') return 'over 99.9 %';
    return `${text} %`;
}

/** @param {number | null} low @param {number | null} high */
export function interval(low, high) {
    return low === null || high === null ? 'not known' : `${share(low)} to ${share(high)}`;
}

/** @param {Rate} rate @param {string} of what the rate is, for those who hear the page */
export function rateCell(rate, of) {
    if (!rate.n) return html`<span class="muted">none yet</span>`;
    if (rate.rate === null) return html`<span class="muted">too few: ${count(rate.hits)} of ${count(rate.n)}</span>`;
    return band(rate.rate, rate, of, `${count(rate.hits)} of ${count(rate.n)}`);
}

/** @param {Chance} chance @param {string} of */
export function chanceCell(chance, of) {
    if (chance.chance === null) return html`<span class="muted">too few: ${jobs(chance.n)}</span>`;
    return band(chance.chance, chance, of, `on ${jobs(chance.rests_on)}`);
}

/** @param {number} n */
export const jobs = (n) => `${count(n)} ${n === 1 ? 'job' : 'jobs'}`;

/**
 * @param {number} part @param {{ n: number, low: number | null, high: number | null }} known
 * @param {string} of @param {string} from
 */
function band(part, { n, low, high }, of, from) {
    const limits = interval(low, high);
    const label = `${of}: ${share(part)}, 95 % interval ${limits}`;
    return html`<span class="rate" title="95 % interval ${limits}; ${from}">
        ${rateBand({ rate: part, low: low ?? 0, high: high ?? 1, n, hits: 0 }, label)}
        <span class="nowrap"><span>${share(part)}</span> <span class="muted small">(${limits})</span></span>
        <span class="muted small nowrap">${from}</span>
    </span>`;
}
