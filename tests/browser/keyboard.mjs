// Each page's main task without a mouse. After each step something has the focus, and is to be seen.

import assert from 'node:assert/strict';

import { api, ended, eventually, open, run, settled, submit } from './browse.mjs';

await run(async () => {
    const failed = await submit('fails', { attempts: 1, arguments: ['the-one'] });
    await ended(failed);
    for (let i = 0; i < 3; i++) await ended(await submit('hello'));
    const page = await open('/');
    const keys = async (...names) => {
        for (const name of names) await page.keyboard.press(name);
    };
    /** The page is another one when its heading is there. */
    const at = async (path, heading) => {
        await eventually(`the page at ${path}`, () => page.url().endsWith(`/ui${path}`));
        await page.waitForSelector(`main h1:has-text("${heading}")`);
        await settled(page);
    };
    const focus = () => page.evaluate(() => document.activeElement.closest('dialog, main, header')?.localName ?? '');
    const hasFocus = (place = 'main') => eventually(`the focus in ${place}`, async () => (await focus()) === place);
    /** Goes on with Tab to what has this name. */
    const tabTo = async (name) => {
        for (let i = 0; i < 80; i++) {
            await keys('Tab');
            const label = await page.evaluate(() => {
                const e = document.activeElement;
                if (!e.matches('a, button, input, textarea, select')) return '';
                const label = e.labels?.[0]?.textContent ?? '';
                return (e.getAttribute('aria-label') ?? (label || e.textContent)).trim();
            });
            if (label.startsWith(name)) return;
        }
        assert.fail(`no Tab leads to ${name} at ${page.url()}`);
    };
    const toast = (text) => page.waitForFunction(
        (text) => document.getElementById('toasts').textContent.includes(text), text);
    const noDialog = () => page.waitForFunction(() => !document.querySelector('dialog'));

    // Find a failed job, read its log, put it back, return to the list.
    await keys('g', 'j');
    await at('/jobs', 'Jobs');
    await page.waitForSelector('.job');
    await hasFocus();
    await keys('/');
    await page.keyboard.type('database');
    await page.waitForURL(/q=database/);
    await page.waitForFunction(() => document.querySelectorAll('.job').length === 1);
    await keys('Escape', 'j');
    await page.waitForFunction(() => document.activeElement.closest('.job'));
    await keys('Enter');
    await at(`/jobs/${failed}`, 'fails');
    await hasFocus();
    await keys('2');
    await page.waitForFunction(() => document.querySelector('.log')?.textContent.includes('connection refused'));
    await tabTo('Retry');
    await keys('Enter');
    await toast('queued again');
    await eventually('its second end', async () => (await api('GET', `/jobs/${failed}`)).attempts.length === 2);
    await ended(failed);
    await hasFocus();
    await page.goBack();
    await page.waitForURL(/q=database/);
    await page.waitForFunction(() => document.activeElement.closest('.job')?.textContent.includes('fails'))
        .catch(() => assert.fail('the focus does not come back to the row'));

    // Submit a job.
    await keys('g', 'n');
    await at('/submit', 'Submit a job');
    await tabTo('Program');
    await page.keyboard.type('hello');
    await tabTo('Arguments');
    await page.keyboard.type('by keyboard');
    await tabTo('Submit');
    await keys('Enter');
    await page.waitForURL(/\/ui\/jobs\/.+/);
    await page.waitForSelector('main h1:has-text("hello")');
    const id = new URL(page.url()).pathname.split('/').pop();
    assert.deepEqual((await api('GET', `/jobs/${id}`)).arguments, ['by keyboard']);
    await hasFocus();

    // Pause the queue, and let it go on.
    await keys('g', 'q');
    await at('/queue', 'Queue');
    await tabTo('Pause');
    await keys('Enter');
    await hasFocus('dialog');
    await tabTo('Pause');
    await keys('Enter');
    await toast('Paused');
    await page.waitForSelector('text=The queue is paused.');
    assert.equal((await api('GET', '/queue')).paused, true);
    await tabTo('Resume');
    await keys('Enter');
    await toast('The queue goes on');
    assert.equal((await api('GET', '/queue')).paused, false);
    // Of several queues, one alone.
    await submit('hello', { queue: 'encode', delay_ms: 3_600_000 });
    await page.waitForSelector('h2:has-text("Queues")');
    await tabTo('Pause encode');
    await keys('Enter');
    await toast('encode is paused');
    assert.equal((await api('GET', '/queues/encode')).paused, true);
    assert.equal((await api('GET', '/queue')).paused, false);

    // Add a schedule.
    await keys('g', 'c');
    await at('/schedules', 'Schedules');
    await keys('n');
    await hasFocus('dialog');
    await tabTo('Id');
    await page.keyboard.type('by-keyboard');
    await tabTo('Binary');
    await page.keyboard.type('hello');
    await keys('Enter');
    await noDialog();
    await page.waitForSelector('text=Its next');
    assert.equal((await api('GET', '/schedules/by-keyboard')).job.name, 'hello');
    await hasFocus();

    // Add a category.
    await keys('g', 'f');
    await at('/failures', 'Failures');
    await tabTo('Edit and test the categories');
    await keys('Enter');
    await at('/categories', 'Categories');
    await keys('n');
    await hasFocus('dialog');
    await tabTo('Name');
    await page.keyboard.type('Found by keyboard');
    await tabTo('What belongs to it');
    await page.keyboard.type('The database refuses connections.');
    await tabTo('Add an example');
    await keys('Enter');
    await tabTo('Add');
    await keys('Enter');
    await noDialog();
    await page.waitForSelector('.category-name:has-text("Found by keyboard")');
    await hasFocus();

    // Drain the worker, last: nothing runs any more.
    await keys('g', 'w');
    await at('/workers', 'Workers');
    await tabTo('Drain');
    await keys('Enter');
    await hasFocus('dialog');
    await tabTo('Drain');
    await keys('Enter');
    await toast('told to drain');
    await eventually('a draining worker', async () => {
        const { items } = await api('GET', '/workers');
        return items.every((worker) => worker.draining);
    });
    // Help is a key away, and goes away.
    await keys('?');
    await hasFocus('dialog');
    await keys('Escape');
    await noDialog();
});
