"""Has a policy guess a number: an ordinary program on the client of OpenAI, and one call that ends the episode."""

import json
import sys

from openai import OpenAI

episode = json.loads(sys.stdin.readline())
client = OpenAI()  # OPENAI_BASE_URL and OPENAI_API_KEY are this episode's
messages = [{"role": "user", "content": episode["text"]}]
reward = 0.0
for _ in range(5):
    answer = client.chat.completions.create(model="policy", messages=messages).choices[0].message
    guess = answer.content or ""
    if guess.isdecimal() and int(guess) == int(episode["answer"]):
        reward = 1.0
        break
    sign = "*" if not guess.isdecimal() else "+" if int(guess) < int(episode["answer"]) else "-"
    messages += [{"role": "assistant", "content": guess}, {"role": "user", "content": sign}]
client.post("/end", body={"reward": reward}, cast_to=object)
