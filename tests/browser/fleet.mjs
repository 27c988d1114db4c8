// Several queues, groups of jobs and arrays: what each page tells of them, and what can be done about them.

import assert from 'node:assert/strict';

import { api, ended, eventually, given, inspect, open, run, settled, submit, tell } from './browse.mjs';

/** The text of an element, once it fits. */
const says = async (page, selector, pattern) => {
    let text = '';
    await eventually(`${pattern} in ${selector}`, async () => {
        text = (await page.locator(selector).first().innerText()).replace(/\s+/g, ' ');
        return pattern.test(text);
    }).catch((error) => assert.fail(`${error.message}; it says: ${text}`));
    return text;
};

/** Two queues, of which no worker serves one. */
async function queues() {
    await ended(await submit('hello'));
    const page = await open('/queue');
    // One queue needs no table.
    await says(page, 'main', /Work that waits none Limit none Workers 1/);
    assert.equal(await page.locator('main table').count(), 0);

    for (let i = 0; i < 3; i++) await submit('hello', { queue: 'encode' });
    await submit('fails', { queue: 'encode', priority: 3 });
    await api('POST', '/queues/encode:limit', { concurrency: 8, rate: { jobs: 100, per_ms: 60_000 }, fair: 'group' });
    await says(page, '.note.warn', /No worker takes jobs of encode\. 4 jobs wait\. .*jobber work --queue encode/);
    await says(page, 'tr:has-text("encode")', /8 at once, 100 in 1 m, in turn among groups/);
    // What is known of one name is not known of the other.
    await says(page, 'tr:has-text("encode")', /less than 1 s of one core, without 1 job that nothing is known of/);
    await says(page, 'tr:has-text("encode")', /none Pause encode$/);
    await says(page, 'tr:has-text("default")', /none none 1 Pause/);
    await page.setViewportSize({ width: 320, height: 900 });
    await inspect(page, 'two queues at 320 px');
    await page.context().close();
}

await run(async () => {
    await queues();
    tell('queues');
});
