-- Several messages on one connection: permitted, refused at RCPT and at the end, edited.
function must(error_text, what)
    if error_text ~= nil then error(what .. ": " .. error_text) end
end

function expect(conn, reply, what)
    if mt.getreply(conn) ~= reply then
        error(what .. ": reply " .. string.char(mt.getreply(conn)))
    end
end

function begin(conn, recipient, reply)
    mt.macro(conn, SMFIC_MAIL, "i", "queue-id")
    must(mt.mailfrom(conn, "<news@shop.example>"), "MAIL")
    mt.macro(conn, SMFIC_RCPT, "{rcpt_mailer}", "esmtp")
    must(mt.rcptto(conn, recipient), "RCPT")
    expect(conn, reply, recipient)
end

function content(conn, ...)
    for _, field in ipairs({...}) do
        must(mt.header(conn, field[1], field[2]), field[1])
    end
    must(mt.bodyrandom(conn, 200000), "body")
    must(mt.eom(conn), "end of message")
end

unsubscribe = {"List-Unsubscribe", "<https://shop.example/u/1>"}
one_click = {"List-Unsubscribe-Post", "List-Unsubscribe=One-Click"}
from = {"From", "Shop <news@shop.example>"}

function session()
    conn = mt.connect("inet:" .. port .. "@127.0.0.1")
    if conn == nil then error("no connection") end
    must(mt.negotiate(conn, 6, 0x1FF, 0x1FFFFF), "negotiation")
    if not mt.test_action(conn, SMFIF_DELRCPT) then error("DELRCPT is not asked for") end
    if mt.test_action(conn, SMFIF_ADDHDRS) then error("ADDHDRS is asked for") end
    must(mt.conninfo(conn, "client.example", "192.0.2.9"), "connect")
    must(mt.helo(conn, "client.example"), "helo")

    begin(conn, "<consent@people.example>", SMFIR_CONTINUE)
    content(conn, from, unsubscribe, one_click)
    expect(conn, SMFIR_CONTINUE, "a permitted message")
    if mt.eom_check(conn, MT_HDRDELETE, "X-Mail-Stream") then
        error("a permitted message is edited")
    end

    begin(conn, "<complained@people.example>", SMFIR_REPLYCODE)
    mt.abort(conn)

    begin(conn, "<stranger@people.example>", SMFIR_CONTINUE)
    content(conn, from, {"X-Mail-Stream", "receipts"})
    expect(conn, SMFIR_CONTINUE, "a receipt")
    if not mt.eom_check(conn, MT_HDRDELETE, "X-Mail-Stream") then
        error("the stream header stays")
    end

    begin(conn, "<consent@people.example>", SMFIR_CONTINUE)
    content(conn, from)
    expect(conn, SMFIR_REPLYCODE, "no unsubscribe field")

    begin(conn, "<consent@people.example>", SMFIR_CONTINUE)
    mt.macro(conn, SMFIC_RCPT, "{rcpt_mailer}", "esmtp")
    must(mt.rcptto(conn, "<withdrawn@people.example>"), "RCPT")
    content(conn, from, unsubscribe, one_click)
    expect(conn, SMFIR_CONTINUE, "a message for one of two")
    if not mt.eom_check(conn, MT_RCPTDELETE, "<withdrawn@people.example>") then
        error("the refused is not taken away")
    end
    if mt.eom_check(conn, MT_RCPTDELETE, "<consent@people.example>") then
        error("the permitted is taken away")
    end
    mt.disconnect(conn)
end

-- miltertest keeps the text of an error to itself
good, problem = pcall(session)
if not good then
    mt.echo(problem)
    error(problem)
end
