// @ts-check
// What can be done with a job in its state.

import { mayAct, post, remove, segment } from '../../lib/api.js';
import { go, href } from '../../lib/router.js';
import { signal } from '../../lib/signals.js';
import { html } from '../../lib/view.js';
import { action, attempt, confirm, dialog } from '../../lib/widgets.js';

/** @param {any} job @param {string} id @param {() => Promise<void>} reload */
export function actions(job, id, reload) {
    if (!mayAct()) return null;
    const path = `/jobs/${segment(id)}`;
    const act = async (/** @type {string} */ verb, /** @type {string} */ done, body = {}) => {
        await attempt(() => post(`${path}:${verb}`, body), done);
        await reload();
    };
    const isOpen = !['completed', 'failed'].includes(job.state);
    const mayPromote = job.state === 'delayed' && !job.waits_for?.length;
    return html`
        ${job.state === 'failed' ? action('Retry', () => act('retry', 'The job is queued again'), { kind: 'primary' })
            : null}
        ${mayPromote ? action('Run now', () => act('promote', 'The job is ready to run'),
            { kind: 'primary', title: 'Promote: it waits no longer for its time' }) : null}
        ${
            isOpen && (job.cancel_requested === null || job.cancel_requested === undefined)
                ? action('Cancel', async () => {
                      const reason = await askReason(job);
                      if (reason !== null)
                          await act(
                              'cancel',
                              job.state === 'active' ? 'Its worker was told to stop it' : 'Cancelled',
                              reason ? { reason } : {},
                          );
                  })
                : null
        }
        <a class="button" href=${href('/submit', { clone: id })} title="A new job like this one (e)">Clone and edit</a>
        ${
            job.state === 'active'
                ? null
                : action(
                      'Remove',
                      async () => {
                          const isSure = await confirm(
                              'Remove this job?',
                              html`<strong>${job.name}</strong> ${id} leaves the queue and all lists. Its part in
                                  statistics stays.`,
                              'Remove',
                          );
                          if (!isSure) return;
                          const answer = await attempt(() => remove(path), 'Removed');
                          if (answer) go(href('/jobs'));
                          else await reload();
                      },
                      { kind: 'danger' },
                  )
        }`;
}

/** @param {any} job @returns {Promise<string | null>} */
function askReason(job) {
    const reason = signal('');
    return dialog(
        'Cancel this job?',
        (close) => () => html`
        <p>${job.state === 'active' ? 'Its process gets SIGTERM, and SIGKILL after its grace.' : 'It will not start.'}
            It then counts as cancelled and is not tried again.</p>
        <form class="stack" @submit=${(/** @type {SubmitEvent} */ event) => {
            event.preventDefault();
            close(reason.peek().trim());
        }}>
            <label>Reason <span class="hint">for history; may be empty</span>
                <input type="text" maxlength="500" autofocus
                    @input=${(/** @type {Event} */ e) =>
                        (reason.value = /** @type {HTMLInputElement} */ (e.target).value)}></label>
            <div class="row end">
                <button type="button" @click=${() => close(null)}>Keep it</button>
                <button class="danger">Cancel the job</button>
            </div>
        </form>`,
    );
}
