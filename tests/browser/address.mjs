// The address is the state: what was chosen is there after a reload, after "back", and in another browser.

import assert from 'node:assert/strict';

import { given, open, run, settled, submit, ended } from './browse.mjs';

/** What a user would miss. */
const shown = (page) => page.evaluate(() => ({
    address: location.pathname + location.search,
    pressed: [...document.querySelectorAll('main [aria-pressed=true], main [aria-selected=true]')].map((e) =>
        e.textContent.trim().replace(/\d.*/, '')),
    chips: [...document.querySelectorAll('main .chip.removable')].map((e) => e.getAttribute('aria-label')),
    search: document.querySelector('main [role=searchbox]')?.value ?? null,
    jobs: [...document.querySelectorAll('main .job a')].map((e) => e.getAttribute('href')),
    choices: [...document.querySelectorAll('main .log-tools select, main select')].map((e) => e.value),
}));

await run(async () => {
    const failed = [];
    for (let i = 0; i < 3; i++) failed.push(await submit('fails', { attempts: 1 }));
    const other = await submit('hello');
    for (const id of [...failed, other]) await ended(id);
    const page = await open('/jobs');
    await page.waitForFunction(() => document.querySelectorAll('.job').length === 4);

    await page.click('[aria-label=States] button:has-text("failed")');
    await page.fill('[role=searchbox]', 'database');
    await page.waitForURL(/q=database/);
    await page.click('summary:has-text("ilter")');
    await page.selectOption('main select:has(option[value="1h"])', '1h');
    await page.waitForURL(/state=failed.*since=1h|since=1h.*state=failed/);
    await page.waitForFunction(() => document.querySelectorAll('.job').length === 3);

    /** Compares with a reload, and with a browser that knows nothing. */
    const survives = async () => {
        await settled(page);
        const before = await shown(page);
        const look = async (page, how) => {
            const same = async () => JSON.stringify(await shown(page)) === JSON.stringify(before);
            for (let i = 0; i < 40 && !(await same()); i++) await page.waitForTimeout(100);
            assert.deepEqual(await shown(page), before, how);
        };
        await page.reload();
        await look(page, 'after a reload');
        const elsewhere = await open(before.address.slice('/ui'.length));
        await look(elsewhere, 'in another browser');
        await elsewhere.context().close();
        return before;
    };
    const list = await survives();
    assert.equal(list.chips.length, 2, JSON.stringify(list));

    await page.click('.job a');
    await page.click('[role=tab]:has-text("Log")');
    await page.waitForURL(/tab=log/);
    await page.selectOption('.log-tools select', 'stderr');
    await page.click('.log-tools button:has-text("Wrap")');
    await page.waitForURL(/wrap=1/);
    assert.match((await survives()).address, /tab=log&stream=stderr&wrap=1/);

    await page.goBack();
    await page.waitForFunction(() => document.querySelectorAll('.job').length === 3);
    const back = await shown(page);
    assert.deepEqual(back, list, 'after "back"');

    await page.goto(`${given.base}/ui/stats`);
    await settled(page);
    await page.click('main nav a:has-text("Concurrency"), main a:has-text("Concurrency")');
    await page.waitForURL(/tab=concurrency/);
    await survives();
});
