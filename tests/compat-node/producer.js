// A producer and a listener that know nothing of Jobber. Prints one JSON object about what they saw.
//
//   node producer.js PORT

const { FlowProducer, connection, eventually, LONG, QUEUE, run } = require('./bull');

const HEARD = ['added', 'active', 'progress', 'completed', 'failed', 'delayed', 'retries-exhausted'];

run(async (queue, events) => {
  const seen = Object.fromEntries(HEARD.map((name) => [name, []]));
  for (const name of HEARD) {
    events.on(name, (event) => seen[name].push(event));
  }

  const jobs = {};
  jobs.single = await queue.add('echo', ['one', 'two']);
  [jobs.bulk, jobs.prioritised, jobs.object] = await queue.addBulk([
    { name: 'echo', data: ['b1'] },
    { name: 'echo', data: ['b2'], opts: { priority: 3 } },
    { name: 'stdin', data: { rows: 5 } },
  ]);
  jobs.delayed = await queue.add('echo', ['later'], { delay: 300 });
  jobs.talks = await queue.add('talks', []);
  jobs.flood = await queue.add('flood', []);
  const backoff = { type: 'exponential', delay: 60 };
  jobs.third = await queue.add('third', [], { attempts: 5, backoff });
  jobs.exhausted = await queue.add('fail', [], { attempts: 2, backoff: { type: 'fixed', delay: 50 } });
  jobs.unrecoverable = await queue.add('never-again', [], { attempts: 5, backoff });
  jobs.missing = await queue.add('no/such', [], { attempts: 5 });

  await queue.upsertJobScheduler('tick', { every: 250, limit: 3 }, { name: 'echo', data: ['tick'] });

  const flows = new FlowProducer({ connection });
  const child = (text) => ({ name: 'echo', queueName: QUEUE, data: [text] });
  const flow = await flows.add({ ...child('parent'), children: [child('child-1'), child('child-2')] });
  const broken = await flows.add({
    ...child('never'),
    children: [{ name: 'fail', queueName: QUEUE, data: [], opts: { failParentOnFailure: true } }],
  });
  jobs.parent = flow.job;
  jobs.fatherless = broken.job;

  const ended = {};
  for (const [name, job] of Object.entries(jobs)) {
    try {
      await job.waitUntilFinished(events, LONG);
    } catch {
      // Told below, with what is stored.
    }
    const now = await queue.getJob(job.id);
    const { logs } = await queue.getJobLogs(job.id);
    ended[name] = {
      id: job.id,
      state: await now.getState(),
      returnvalue: name === 'flood' ? null : now.returnvalue,
      failedReason: now.failedReason,
      progress: now.progress,
      attemptsMade: now.attemptsMade,
      attemptsStarted: now.attemptsStarted,
      span: now.finishedOn - now.processedOn,
      waited: now.processedOn - now.timestamp,
      logs: name === 'flood' ? [] : logs,
      logBytes: logs.reduce((sum, line) => sum + line.length, 0),
    };
  }
  const ticks = () => seen.completed.filter((event) => event.jobId.startsWith('repeat:tick:'));
  await eventually('three rounds of the scheduler', () => ticks().length >= 3);
  const tick = await queue.getJob(ticks()[2].jobId);

  const metrics = async (type) => (await queue.getMetrics(type)).meta.count;
  return {
    ended,
    children: Object.values(await (await queue.getJob(flow.job.id)).getChildrenValues()).map(({ result }) => result).sort(),
    childrenFinishedOn: (await Promise.all(flow.children.map(({ job }) => queue.getJob(job.id)))).map((job) => job.finishedOn),
    parentProcessedOn: (await queue.getJob(flow.job.id)).processedOn,
    tick: { returnvalue: tick.returnvalue, ids: ticks().map((event) => event.jobId) },
    metrics: { completed: await metrics('completed'), failed: await metrics('failed') },
    counts: await queue.getJobCounts(),
    seen: { ...seen, completed: seen.completed.filter((event) => event.jobId !== jobs.flood.id) },
  };
});
