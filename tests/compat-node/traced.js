// A producer that traces by bullmq-otel: adds a job, waits for its end, and prints the job's id, what the job gave back,
// and the span in which it was added.
//
//   node traced.js PORT NAME

const { NodeTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } = require('@opentelemetry/sdk-trace-node');
const { BullMQOtel } = require('bullmq-otel5');
const { Queue, connection, QUEUE, LONG, run } = require('./bull');

run(async (_, events) => {
  const exporter = new InMemorySpanExporter();
  new NodeTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }).register();
  const queue = new Queue(QUEUE, { connection, telemetry: new BullMQOtel('producer') });
  const backoff = { type: 'fixed', delay: 10 };
  const job = await queue.add(process.argv[3], [], { attempts: 3, backoff });
  const returned = await job.waitUntilFinished(events, LONG);
  await queue.close();
  const span = exporter.getFinishedSpans().find(({ name }) => name.startsWith('add '));
  return { id: job.id, returned, trace: span.spanContext().traceId, span: span.spanContext().spanId };
});
