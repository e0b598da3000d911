"""An environment of the package verifiers: a number is guessed, and each guess is told to be too low or too high."""

import random

import verifiers.v1 as vf

__all__ = ["HigherLowerEnv", "HigherLowerTaskset"]


class HigherLowerConfig(vf.TasksetConfig):
    highest: int = 31
    numbers: int = 256


class Number(vf.TaskData):
    number: int


class HigherLowerTask(vf.Task[Number, vf.State, vf.TaskConfig]):
    @vf.reward
    async def guessed(self, task: Number, trace: vf.Trace) -> float:
        return float(trace.last_reply.isdecimal() and int(trace.last_reply) == task.number)


class HigherLowerTaskset(vf.Taskset[HigherLowerTask, HigherLowerConfig]):
    def load(self):
        drawn = random.Random(0)
        for index in range(self.config.numbers):
            number = drawn.randint(0, self.config.highest)
            data = Number(name=f"number {index}", prompt=f"00-{self.config.highest};", number=number)
            yield HigherLowerTask(data, self.config.task)


class HigherLowerEnvConfig(vf.EnvConfig):
    player: vf.AgentConfig = vf.AgentConfig()


class HigherLowerEnv(vf.Env[HigherLowerEnvConfig]):
    async def run(self, task, agents):
        async with agents.player.interaction(task) as interaction:
            segment = await interaction.turn()
            while not segment.terminated:
                guess = segment.last_reply
                if guess.isdecimal() and int(guess) == task.data.number:
                    return
                sign = "*" if not guess.isdecimal() else "+" if int(guess) < task.data.number else "-"
                segment = await interaction.turn(sign)
