// Adds a flow of its own and waits for its end, adds one whose child fails, and looks at the flow called `ours`.
//
//   BULLMQ=bullmq|bullmq6 node flows.js PORT

const { FlowProducer, connection, QUEUE, LONG, run } = require('./bull');

run(async (queue, events) => {
  const producer = new FlowProducer({ connection });
  const child = (name, data, opts) => ({ name, queueName: QUEUE, data, opts });
  const good = await producer.add({ ...child('gather', []), children: ['one', 'two'].map((word) => child('echo', [word])) });
  const theirs = await good.job.waitUntilFinished(events, LONG);

  const failing = child('fail', [], { failParentOnFailure: true });
  const bad = await producer.add({ ...child('echo', ['never']), children: [failing] });
  const failed = await bad.job.waitUntilFinished(events, LONG).then(
    () => 'it ran',
    (error) => error.message,
  );

  const flow = await producer.getFlow({ id: 'ours', queueName: QUEUE });
  const values = await (await queue.getJob('ours')).getChildrenValues();
  await producer.close();
  return { theirs, failed, ours: { name: flow.job.name, children: flow.children.map((c) => c.job.id) }, values };
});
