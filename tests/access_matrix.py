"""
Who may do what: the expected answers, written by hand. ``test_access`` compares both doors with them.

A row is a method, what it is called about, and an answer for each role there. Whatever is called without a token is
refused, so that role has no column. ``-`` is a role that the thing does not have. The other answers:

ok      it is done
none    "there is no such thing": the very answer, by as many statements, that an id gets which was never given out
admin   only an owner or admin may        owner   only an owner may
sender  only its sender may               post    only the feed's owner and admins may post
kind    this kind of conversation does not have that
block   messages between the two are blocked
input   it would be refused to anybody: a conversation needs an owner, nobody blocks themselves
self    a direct conversation needs another person
"""

from __future__ import annotations

from typing import NamedTuple

ERRORS = {
    "admin": "not_an_admin",
    "owner": "not_an_owner",
    "sender": "not_the_sender",
    "post": "posting_not_allowed",
    "kind": "wrong_conversation_kind",
    "block": "direct_blocked",
    "input": "invalid_input",
    "self": "cannot_message_yourself",
}

# Receipts are collected and stored later, with one statement for many: whoever is no member gets no error, and nothing
# is stored. In a direct conversation, "member" is one of the two and "blocked" is blocked by the other one. In a feed,
# "former" and "member" are about following it; everybody may read it. "blocked" elsewhere: by the owner.
CONVERSATIONS = """
                            about          stranger former member admin  owner  blocked

message.send                group          none     none   ok     ok     ok     ok
message.send                direct         none     -      ok     -      -      block
message.send                feed           none     none   post   ok     ok     post
message.history             group          none     none   ok     ok     ok     ok
message.history             direct         none     -      ok     -      -      ok
message.history             feed           ok       ok     ok     ok     ok     ok
message.get                 group          none     none   ok     ok     ok     ok
message.get                 direct         none     -      ok     -      -      ok
message.get                 feed           ok       ok     ok     ok     ok     ok
message.edit                group          none     none   sender sender ok     sender
message.edit                group-own      -        none   ok     ok     ok     ok
message.edit                direct         none     -      sender -      -      sender
message.edit                direct-own     -        -      ok     -      -      block
message.edit                feed           none     none   sender sender ok     sender
message.edit                feed-own       -        -      -      ok     ok     -
message.delete              group          none     none   sender ok     ok     sender
message.delete              group-own      -        none   ok     ok     ok     ok
message.delete              direct         none     -      sender -      -      sender
message.delete              direct-own     -        -      ok     -      -      ok
message.delete              feed           none     none   sender ok     ok     sender
message.push                group          none     none   ok     ok     ok     ok
message.push                direct         none     -      ok     -      -      ok
message.push                feed           ok       ok     ok     ok     ok     ok
call.ring                   group          none     none   ok     ok     ok     ok
call.ring                   direct         none     -      ok     -      -      block
call.ring                   feed           none     none   kind   kind   kind   kind
conversation.get            group          none     none   ok     ok     ok     ok
conversation.get            direct         none     -      ok     -      -      ok
conversation.get            feed           none     none   ok     ok     ok     ok
conversation.rename         group          none     none   admin  ok     ok     admin
conversation.rename         direct         none     -      kind   -      -      kind
conversation.rename         feed           none     none   admin  ok     ok     admin
conversation.set_data       group          none     none   admin  ok     ok     admin
conversation.set_data       direct         none     -      kind   -      -      kind
conversation.set_data       feed           none     none   admin  ok     ok     admin
conversation.set_push_content group        none     none   admin  ok     ok     admin
conversation.set_push_content direct       none     -      ok     -      -      ok
conversation.set_push_content feed         none     none   admin  ok     ok     admin
conversation.delete         group          none     none   owner  owner  ok     owner
conversation.delete         direct         none     -      kind   -      -      kind
conversation.delete         feed           none     none   owner  owner  ok     owner
conversation.leave          group          none     none   ok     ok     ok     ok
conversation.leave          direct         none     -      kind   -      -      kind
conversation.leave          feed           none     none   ok     ok     ok     ok
conversation.hide           group          none     none   kind   kind   kind   kind
conversation.hide           direct         none     -      ok     -      -      ok
conversation.hide           feed           none     none   kind   kind   kind   kind
conversation.mute           group          none     none   ok     ok     ok     ok
conversation.mute           direct         none     -      ok     -      -      ok
conversation.mute           feed           none     none   ok     ok     ok     ok
conversation.read           group          ok       ok     ok     ok     ok     ok
conversation.read           direct         ok       -      ok     -      -      ok
conversation.read           feed           ok       ok     ok     ok     ok     ok
conversation.delivered      group          ok       ok     ok     ok     ok     ok
conversation.delivered      direct         ok       -      ok     -      -      ok
conversation.delivered      feed           ok       ok     ok     ok     ok     ok
conversation.typing         group          none     none   ok     ok     ok     ok
conversation.typing         direct         none     -      ok     -      -      ok
conversation.typing         feed           none     none   ok     ok     ok     ok
conversation.members        group          none     none   ok     ok     ok     ok
conversation.members        direct         none     -      ok     -      -      ok
conversation.members        feed           none     none   ok     ok     ok     ok
conversation.add_member     group          none     none   admin  ok     ok     admin
conversation.add_member     direct         none     -      kind   -      -      kind
conversation.add_member     feed           none     none   admin  kind   kind   admin
conversation.remove_member  group          none     none   admin  ok     ok     admin
conversation.remove_member  group-owner    none     none   admin  admin  ok     admin
conversation.remove_member  direct         none     -      kind   -      -      kind
conversation.remove_member  feed           none     none   admin  ok     ok     admin
conversation.change_role    group          none     none   owner  owner  ok     owner
conversation.change_role    group-owner    none     none   owner  owner  input  owner
conversation.change_role    direct         none     -      kind   -      -      kind
conversation.change_role    feed           none     none   owner  owner  ok     owner
feed.follow                 group          none     none   none   none   none   none
feed.follow                 direct         none     -      none   -      -      none
feed.follow                 feed           ok       ok     ok     ok     ok     ok
feed.unfollow               group          none     none   none   none   none   none
feed.unfollow               direct         none     -      none   -      -      none
feed.unfollow               feed           none     none   ok     ok     ok     ok
"""

# What needs no conversation. The caller is somebody to the other person: nobody, blocked by them, or the same person.
PEOPLE = """
                            about          stranger blocked self

conversation.create_direct  person         ok       block   self
user.get                    person         ok       ok      ok
user.block                  person         ok       ok      input
user.unblock                person         ok       ok      ok
device.remove               device         none     none    ok
device.push_test            device         none     none    ok
push.receipt                push           none     none    ok
push.get                    push           none     none    ok
session.revoke              session        none     none    ok
"""

# What is about the caller alone: everybody may. Whose answers these are is the business of other tests.
OWN = {
    "conversation.list",
    "conversation.create_group",
    "feed.create",
    "feed.list",
    "user.me",
    "user.update",
    "user.delete_account",
    "user.search",
    "user.blocks",
    "device.register",
    "device.list",
    "session.list",
    "sync",
}

# Channels. ``denied`` is error 103, ``unknown`` 102, ``absent`` 108; a connect request gets what it may have ("given")
# and hears nothing of the rest ("left out"). Publishing in a conversation is sending.
CHANNELS = """
                            about          stranger former   member   admin    owner    blocked

subscribe                   group          denied   denied   held     held     held     held
subscribe                   direct         denied   -        held     -        -        held
subscribe                   feed           ok       ok       ok       ok       ok       ok
subscribe                   personal       denied   denied   denied   denied   denied   denied
subscribe                   own            held     held     held     held     held     held
subscribe                   unknown        unknown  unknown  unknown  unknown  unknown  unknown
publish                     group          none     none     ok       ok       ok       ok
publish                     direct         none     -        ok       -        -        block
publish                     feed           none     none     post     ok       ok       post
publish                     personal       denied   denied   denied   denied   denied   denied
publish                     own            denied   denied   denied   denied   denied   denied
publish                     unknown        unknown  unknown  unknown  unknown  unknown  unknown
history                     group          denied   denied   ok       ok       ok       ok
history                     direct         denied   -        ok       -        -        ok
history                     feed           ok       ok       ok       ok       ok       ok
history                     personal       denied   denied   denied   denied   denied   denied
history                     own            ok       ok       ok       ok       ok       ok
history                     unknown        unknown  unknown  unknown  unknown  unknown  unknown
presence                    group          absent   absent   absent   absent   absent   absent
presence                    feed           absent   absent   absent   absent   absent   absent
presence                    personal       absent   absent   absent   absent   absent   absent
presence                    own            absent   absent   absent   absent   absent   absent
presence                    unknown        unknown  unknown  unknown  unknown  unknown  unknown
connect                     group          out      out      given    given    given    given
connect                     direct         out      -        given    -        -        given
connect                     feed           out      out      out      out      out      out
connect                     personal       out      out      out      out      out      out
connect                     own            given    given    given    given    given    given
connect                     unknown        out      out      out      out      out      out
"""

PROTOCOL_ERRORS = {"denied": 103, "unknown": 102, "held": 105, "absent": 108}


class Row(NamedTuple):
    """One line: what is called, about what, and the answer for each role."""

    call: str
    about: str
    answers: dict[str, str]


def rows(table: str) -> list[Row]:
    """Read a table."""
    head, *lines = (line.split() for line in table.splitlines() if line.strip())
    roles = head[1:]
    return [
        Row(call, about, {role: answer for role, answer in zip(roles, answers, strict=True) if answer != "-"})
        for call, about, *answers in lines
    ]
