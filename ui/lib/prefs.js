// @ts-check
// What the user prefers, kept in this browser.

import { effect, signal } from './signals.js';

/** @param {string} name @param {string} usual @param {string[]} choices */
function preference(name, usual, choices) {
    const kept = localStorage.getItem(`jobber.${name}`);
    const chosen = signal(kept && choices.includes(kept) ? kept : usual);
    effect(() => localStorage.setItem(`jobber.${name}`, chosen.value));
    return chosen;
}

/** `system`, `light` or `dark`. */
export const theme = preference('theme', 'system', ['system', 'light', 'dark']);
/** The zone of times on the page: `local` or `utc`. */
export const zone = preference('zone', 'local', ['local', 'utc']);

effect(() => {
    document.documentElement.dataset.theme = theme.value;
});
