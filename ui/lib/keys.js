// @ts-check
// Keys for what the mouse can do. The help (`?`) lists those that work on the page that is shown.

import { signal } from './signals.js';

/** @typedef {{ keys: string, help: string, run: (event: KeyboardEvent) => void }} Binding */

/** @type {import('./signals.js').Signal<Binding[]>} */
export const bindings = signal(/** @type {Binding[]} */ ([]));
let prefix = '';
let prefixAt = 0;

/**
 * Binds keys, such as `j` or `g j`, while the scope lives.
 * @param {import('./scope.js').Scope} scope
 * @param {Record<string, [string, (event: KeyboardEvent) => void]>} keys
 */
export function bind(scope, keys) {
    const mine = Object.entries(keys).map(([keys, [help, run]]) => ({ keys, help, run }));
    bindings.value = [...bindings.peek(), ...mine];
    scope.onEnd(() => {
        bindings.value = bindings.peek().filter((binding) => !mine.includes(binding));
    });
}

/** Whether the keys go to what the user is writing. @param {EventTarget | null} target */
function isWriting(target) {
    return target instanceof HTMLElement && (target.isContentEditable || /^(input|textarea|select)$/i.test(target.tagName)) &&
        !(target instanceof HTMLInputElement && /^(checkbox|radio|button|range)$/.test(target.type));
}

document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.key === 'Escape' && isWriting(event.target)) {
        /** @type {HTMLElement} */ (event.target).blur();
        return;
    }
    if (isWriting(event.target) || document.querySelector('dialog[open]')) return;
    const keys = prefix && event.timeStamp - prefixAt < 1500 ? `${prefix} ${event.key}` : event.key;
    // The page's own bindings come after those of the whole, and win.
    const binding = bindings.peek().findLast((b) => b.keys === keys);
    prefix = '';
    if (binding) {
        event.preventDefault();
        binding.run(event);
    } else if (bindings.peek().some((b) => b.keys.startsWith(`${event.key} `))) {
        prefix = event.key;
        prefixAt = event.timeStamp;
    }
});
