"""The worker of libs/common/server with short timeouts, so that the tests are fast. It fails at `/fault`."""

from typing import Any

from libs.common.server import answers, bodies, worker

bodies.BODY_SECONDS = answers.ANSWER_SECONDS = 5.0


class Worker(worker.Worker):
    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        if getattr(req, "path", "") == "/fault":
            raise ZeroDivisionError
        super().handle_request(listener_name, req, sock, addr)
