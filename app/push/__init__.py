"""Telling others what happens to tasks, so that nobody has to poll.

relay          from pending events to messages, exactly once
messages       the bytes that are sent, and who gets them
deliveries     a message on its way to one subscriber: by the schedule, until it is there or given up
attempts       one signed POST, and how it was answered; rotations  secrets that still sign
endpoints      what people and programs do to subscribers; subscribers  what there is to say of them
"""
