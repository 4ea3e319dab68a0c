"""A person at the terminal, in tests."""


class Person:
    """Answers each question by the first rule whose text is in it: a word, or a function of the question; else yes.

    Attributes:
        shown: all that was printed.
        asked: all questions.
    """

    def __init__(self, **rules):
        self.rules = {key.replace("_", " "): value for key, value in rules.items()}
        self.shown, self.asked = [], []

    def show(self, text):
        self.shown.append(text)

    def ask(self, question):
        self.asked.append(question)
        for text, answer in self.rules.items():
            if text in question:
                return answer(question) if callable(answer) else answer
        return "yes"

    @property
    def text(self):
        return "\n".join(self.shown)
