"""The worker with little patience, so that a test need not wait long for those who have much."""

from libs.common.server import answers, bodies, worker

bodies.BODY_SECONDS = answers.ANSWER_SECONDS = 5.0

Worker = worker.Worker
