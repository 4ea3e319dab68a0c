import logging

from rpd.cli.messages import MessageHandler, show_messages


def test_messages_are_printed_bare_once_and_apart(capfd):
    show_messages()
    show_messages()
    handlers = [handler for handler in logging.getLogger("rpd").handlers if isinstance(handler, MessageHandler)]
    assert len(handlers) == 1
    logging.getLogger("rpd.runs.lifecycle").info("100 % of [bold]x")
    logging.getLogger("rpd.training.run").warning("second")
    logging.getLogger("rpd.runs.lifecycle").debug("not shown")
    logging.getLogger("rpd.teachers.adapters.remote").warning("apart")
    assert capfd.readouterr() == ("100 % of [bold]x\nsecond\n", "apart\n")
