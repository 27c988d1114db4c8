"""Submits a job and reads it back, with the client that openapi-python-client makes: `client.py URL`, with the client's
package on PYTHONPATH."""

import json
import sys

from jobber_client import Client
from jobber_client.api.jobs import get_job, submit_job
from jobber_client.models import JobView, Problem, SubmitJob, Submitted

with Client(base_url=sys.argv[1]) as client:
    submitted = submit_job.sync(client=client, body=SubmitJob(name="hello", arguments=["python"]))
    assert isinstance(submitted, Submitted), submitted
    job = get_job.sync(submitted.id, client=client, wait=30)
    assert isinstance(job, JobView), job
    nobody = get_job.sync("nobody", client=client)
    assert isinstance(nobody, Problem), nobody
    print(json.dumps({"state": job.state, "arguments": job.arguments, "unknown": nobody.code}))
