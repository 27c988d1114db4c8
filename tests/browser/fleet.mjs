// Several queues, groups of jobs and arrays: what each page tells of them, and what can be done about them.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';

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
    await says(page, 'tr:has-text("encode")', /8 at once, 100 start in 1 m, in turn among groups/);
    // What is known of one name is not known of the other.
    await says(page, 'tr:has-text("encode")', /less than 1 s of one core, without 1 job that nothing is known of/);
    await says(page, 'tr:has-text("encode")', /none Pause encode$/);
    await says(page, 'tr:has-text("default")', /none none 1 Pause/);
    await page.setViewportSize({ width: 320, height: 900 });
    await inspect(page, 'two queues at 320 px');
    await page.context().close();
}

/** A group is looked at, put back and cancelled as one. */
async function groups() {
    const NAME = 'night<b>&+1';
    const at = `/groups/${encodeURIComponent(NAME)}`;
    await api('POST', '/jobs', { name: 'second-fails', array: '0-3', group: NAME, attempts: 1, id: 'part' });
    await eventually('the end of the array', async () => (await api('GET', at)).progress === 100);
    const page = await open(at);
    await says(page, 'main', /Group night<b>&\+1 .*4 of 4 jobs have ended 100 %.*Last ended/);
    assert.equal(await page.getAttribute('.parts', 'aria-label'), '3 completed, 1 failed');
    assert.ok(await page.isDisabled('button:has-text("Cancel the rest")'));

    // Its results are a file of lines.
    const [download] = await Promise.all([page.waitForEvent('download'), page.click('a:has-text("JSON lines")')]);
    const lines = readFileSync(await download.path(), 'utf8').trim().split('\n').map((line) => JSON.parse(line));
    assert.deepEqual(lines.map(({ index, state }) => [index, state]),
        [[0, 'completed'], [1, 'failed'], [2, 'completed'], [3, 'completed']]);

    // What has failed goes back, after the question; and fails again.
    await page.click('button:has-text("Retry failed")');
    await page.waitForSelector('dialog:has-text("1 job would be put back")');
    await inspect(page, 'the question before a retry');
    await page.click('dialog button:has-text("Retry 1 job")');
    await page.waitForSelector('dialog:has-text("1 job was put back")');
    await page.click('dialog button:has-text("Close")');
    await eventually('its second attempt', async () => {
        const job = await api('GET', '/jobs/part-1');
        return job.attempts.length === 2 && job.state === 'failed';
    });

    // What has not ended is cancelled. One runs, the others wait for it.
    await api('POST', '/jobs', { name: 'waits', array: '0-4%1', group: 'long', id: 'long' });
    await page.goto(`${given.base}/ui/groups/long`);
    await says(page, 'main', /0 of 5 jobs have ended 0 %.*none yet/);
    await page.waitForSelector('.parts[aria-label^="1 active"]');
    await page.click('button:has-text("Cancel the rest")');
    await page.waitForSelector('dialog:has-text("5 jobs would be cancelled")');
    await page.click('dialog button:has-text("Cancel 5 jobs")');
    await page.waitForSelector('dialog:has-text("5 jobs were cancelled")');
    await page.click('dialog button:has-text("Close")');
    await says(page, 'main', /5 of 5 jobs have ended 100 %/);

    // The list of its jobs, which leads back to it.
    await page.click('.tile:has-text("failed")');
    await page.waitForURL(/state=failed&group=long/);
    await page.waitForFunction(() => document.querySelectorAll('.job').length === 5);
    assert.equal(await page.getAttribute('.chip.removable', 'aria-label'), 'Take away the filter group: long');
    await page.click('.job a');
    await page.click('[role=tab]:has-text("Rules")');
    await says(page, '#panel', /Group long Limit of its group 1 at once Index in its array [0-4]/);
    await page.click('#panel a:has-text("long")');
    await page.waitForURL(/\/groups\/long$/);
    await settled(page);
    await page.goto(`${given.base}/ui/jobs?group=long`);
    await page.click('a:has-text("Progress and results")');
    await page.waitForURL(/\/groups\/long$/);
    await page.context().close();

    // The longest name fits on a telephone.
    const LONG = 'g'.repeat(128);
    const member = await submit('hello', { group: LONG, queue: 'q'.repeat(128), require: { zone: 'mars' } });
    const narrow = await open('/', { width: 320 });
    for (const path of [`/groups/${LONG}`, `/jobs?group=${LONG}`, `/jobs/${member}?tab=rules`, '/queue', '/stats']) {
        await narrow.goto(`${given.base}/ui${path}`);
        await settled(narrow);
        await inspect(narrow, `${path} at 320 px`);
    }
    await narrow.context().close();
    await api('DELETE', `/jobs/${member}`);

    const nowhere = await open('/groups/no-such', { expected: /404/ });
    await says(nowhere, 'main', /No such group/);
    await inspect(nowhere, 'no such group');
    await nowhere.context().close();
}

/** The form makes an array, and says how to make it elsewhere. */
async function arrays() {
    const page = await open('/submit', { expected: /422/ });
    await page.fill('[name=name]', 'hello');
    await page.click('summary:has-text("More options")');
    await page.fill('[name=array]', 'all of them');
    await page.fill('[name=group]', 'by form');
    await page.click('button.primary:has-text("Submit")');
    await says(page, '#error-array', /Write indices/);
    await page.fill('[name=array]', '0-5, 8%2');
    await says(page, '.copyable >> nth=0', /^jobber submit hello --array 0-5,8%2 --group 'by form'/);
    await says(page, '.copyable >> nth=1', /"array":"0-5,8%2","group":"by form"/);
    // What only the server knows stands at the field, too.
    await page.click('button.primary:has-text("Submit")');
    await says(page, '#error-group', /128/);
    await page.fill('[name=group]', 'by-form');
    await page.click('button.primary:has-text("Submit")');
    await page.waitForURL(/\/groups\/by-form$/);
    await says(page, 'main', /7 of 7 jobs have ended/);

    // A copy stays in the group.
    const { items } = await api('GET', '/jobs?group=by-form&limit=1');
    await page.goto(`${given.base}/ui/submit?clone=${items[0].id}`);
    await settled(page);
    await says(page, '.copyable >> nth=0', /^jobber submit hello .*--group by-form --group-limit 2/);
    await page.context().close();
}

/** The numbers of one queue alone. The jobs of the other have not run. */
async function choices() {
    await ended(await submit('fails', { attempts: 1 }));
    const page = await open('/stats');
    await says(page, 'main table', /hello [1-9]/);
    await page.selectOption('label:has-text("Queue") select', 'encode');
    await page.waitForURL(/queue=encode/);
    await says(page, 'main table', /hello 0 /);
    await page.reload();
    await page.waitForFunction(() => document.querySelector('.filters select')?.value === 'encode');
    await inspect(page, 'statistics of one queue');
    await page.click('a:has-text("Cost of failures")');
    await page.waitForURL(/queue=encode/);
    await page.selectOption('label:has-text("Queue") select', '');
    await says(page, 'main table', /fails/);

    await page.goto(`${given.base}/ui/failures?queue=encode`);
    await says(page, 'main', /No failure here/);
    await page.selectOption('label:has-text("Queue") select', 'my-job-queue');
    await says(page, '.errors', /connection refused/);
    // What leads to the jobs keeps the choice.
    const to = await page.getAttribute('table a[href*="/jobs?"]', 'href');
    assert.match(to, /queue=my-job-queue/);
    await page.goto(`${given.base}/ui/retries?queue=my-job-queue`);
    await says(page, 'main', /Allow how many attempts/);
    await page.context().close();
}

/** Why a job waits that no worker can run. */
async function unplaceable() {
    const id = await submit('hello', { require: { zone: 'mars' } });
    const page = await open(`/jobs/${id}?tab=rules`);
    await says(page, 'main section.note', /Why is it waiting\?.*zone=mars/);
    await says(page, '#panel', /Requires zone=mars/);
    await inspect(page, 'a job that no worker can run');
    await page.context().close();
}

await run(async () => {
    await queues();
    tell('queues');
    await groups();
    tell('groups');
    await arrays();
    tell('arrays');
    await choices();
    tell('choices');
    await unplaceable();
    tell('unplaceable');
});
