"""The application of Celery's worker under measurement: the task does nothing."""

import os

from celery import Celery

app = Celery('bench', broker=os.environ['BENCH_REDIS'])
# Celery's guide to optimizing wants many short tasks reserved at once.
app.conf.update(worker_prefetch_multiplier=128, broker_connection_retry_on_startup=True)


@app.task(name='bench.noop', ignore_result=True)
def noop(*args, **kwargs):
    pass
