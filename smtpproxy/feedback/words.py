"""Phrases of servers that refuse mail, in lower case: patterns for `classes`.

Gaps are bounded, and there is no repetition within a repetition.
"""

import re


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))


_WHO = (
    r"(?:users?|recipients?|mail ?box(?:es)?|mail-box|address(?:es)?|accounts?|addressees?"
    r"|user ?names?|user-?ids?|login|e-?mail|mail ?id|alias|subscriber|customer|destination|name"
    r"|inbox"
    r"|maildrop"
    r"|person|local-?part)"
)
_GONE = (
    r"(?:unknown|not found|no longer|not exist|does ?n[o']?t exist|do(?:es)? not exist|nonexistent"
    r"|non-existent|not recogni[sz]ed|not known|not valid|is invalid|invalid|not registered"
    r"|not listed|not local|not active|inactive|disabled|de-?activated|suspended|discontinued"
    r"|closed"
    r"|terminated|deleted|removed|(?<!envelope )(?<!message )(?<!mail )(?<!time )expired"
    r"|not a valid|cannot be found|can ?not be found|unrecogni[sz]ed"
    r"|(?:can|could|was)n[o']?t (?:be )?found|could not be found|was not found|isn't valid"
    r"|not (?:be )?located|does ?n[o']?t have|not have an?|undefined|not present|retired|obsolete"
    r"|not hosted here|not handled here|not in (?:the |our )?(?:directory|database|system"
    r"|address book))"
)
_BAD = (
    r"(?:unknown|invalid|non-?existent|nonexisting|illegal|bad|incorrect|unrecogni[sz]ed|undefined"
    r"|wrong|de-?activated|closed|disabled|inactive|suspended|expired|terminated|obsolete|deleted)"
)

NEUTRAL = _any(
    r"return(?:ed|ing)?(?: \w{1,12}){0,2} to (?:the )?sender",
    r"unknown address error",  # IronPort's prefix to any text
    r"(?:original|returned) (?:message|mail)",
    r"in reply to (?:rcpt to|end of data|data)(?: command)?",
    r"for more information.{0,40}",
    r"original sender|sender-mta|\bsender: ",
    r"incorrect addresses",  # LSMTP's introduction
    r"(?:contact|mail|ask|call) (?:your |the |to )?postmaster",
    r"anti-?spam-?(?:gateway|filter) at",
)

SENDER = _any(
    r"\bsend(?:er|ing)(?:'?s)? (?:ip|mta|host|server)\b|badsender|sendernoa|backscatter|emetteur",
    r"\byou(?:'ve| have)? (?:exceeded\b|reached (?:[\w-]{1,12} ){0,3}(?:quota|limit|maximum)\b)"
    r"|(?:relay|daily|hourly|sending|outgoing|submission) quota|quota for sending|senderfilter"
    r"|unverif\w{3,6} sending"
    r"|from a different address",
    r"\bpurported|responsible address|not owned by|outgoing mail suspension|not pre-approved",
    r"\bfrom: domain|\bfully qualified|dynamic ip|open proxy|mismatches client|unresolvable relay",
    r"\bserver ip\b|\bclient host\b|forward dns|ip for sending",
    r"\b(?:unknown|invalid|bad|forged|unverified|unresolvable) sender",
    r"\bsender(?:'?s)?(?: e-?mail)?(?: address)?(?: domain)?:? ?(?:is |was |has "
    r"|does )?(?:been )?(?:not |n't )?"
    r"(?:rejected|denied|refused|unknown|invalid|verif|permitted|allowed|blocked|exist|valid"
    r"|authori[sz]ed|black|found|must|resolv|accept|prohibited|restrict|reject|policy)",
    r"\b(?:account|domain) of (?:the )?sender",
    r"\bsender (?:policy|account|domain|verify|address)",
    r"\b(?:mail|messages?) from (?:an? )?(?:unknown|non-?existent|invalid)",
    r"\binvalid dns\b",  # GMX's and web.de's, after "mailbox unavailable"
    r"\b(?:cannot|can't|could not|unable to) (?:find|resolve|verify) (?:your|the sender|sender"
    r"|the from)",
    r"\breverse (?:dns|lookup|hostname|mapping)|\bptr\b|\bhelo\b|\behlo\b",
    r"\b(?:envelope|from|return|reverse|originator) (?:address|path|sender)\b",
    r"\bsender's (?:account|domain|address)|\bcall(?:back|out)\b|\bin reply to mail from",
    r"\bfrom domain\b|\bfrom: (?:address|header)|\bmail ?from (?:\w{1,12} )?(?:mismatch|fail)",
    r"\bsender (?:e-?mail )?is not\b|\bdns:(?:b\d|nr)\b",  # AOL: no reverse name
    r"\byour (?:host|ip|server|domain|mail (?:server|domain)|network|provider|isp|hostname|smtp)\b",
    r"\byour (?:\w{1,12} )?(?:e-?mail address|account) (?:is|has|was)\b|\brdns\b",
)

EARLIER = _any(r"\bafter (?:pipelined )?(?:mail from|ehlo|helo)\b|\bafter initial connection\b")
"""A refusal before any recipient was named."""

SPAM = _any(
    r"spam(?!cop\.net/w3m)|\bunsolicited|\bbulk\b|\bjunk|\buce\b|\bube\b|\bmass[ -]?mail",
    r"black ?-?list|\bblock ?-?list|deny ?list|\bdnsbl|\brbls?\b|\buribl|\bsurbl|\bsbl\b|\bxbl\b"
    r"|\bpbl\b",
    r"barracuda|sorbs\b|reputation|phish|content (?:reject|filter|scan|restrict)",
    r"suspicious(?!remoteserver)",  # Exchange's word for a lost connection
    r"classified as|profile the internet community|unwanted|advertis",
    r"\bc?bl\b|\bduh?l\b|deny ?ip\b|\b(?:rtr|rly|hvu|con):(?!ge\b)[a-z]{1,2}\d?\b",  # AOL's too
    r"垃圾|迷惑メール|спам|스팸",
)

FILTER_LINK = re.compile(
    r"https?://[^\s/]{0,100}(?:spamhaus|spamcop|dnsbl|blocklist|barracudacentral|abuseat|spf\.)"
)
"""Links that replace words."""

FULL = _any(
    r"storage allocation|space has been used|too much mail data",
    r"(?:mail ?box|mail-box|in-?box|account|maildir|mail ?folder|mail ?drop|user|recipient|disk"
    r"|storage"
    r"|postfach|boite|boîte|buz[oó]n|casella|caixa|skrzynka)[^.;]{0,60}"
    r"(?:\bfull\b|\bvoll|pleine|llen[oa]|\bpien[ao]|chei[oa]|pełna|overflow|quota\b"
    r"|exceed(?:s|ed)? (?:\w{1,12} ){0,3}(?:size|space|limit|storage|quota|maximum))",
    r"mail ?box (?:\w{1,10} )?(?:size|limit)|exceeds allowed size|over ?-?quota"
    r"|quota[^.;]{0,30}(?:exceed|full|reach|limit|violat|over|deliver)|(?:exceed|over|reached"
    r"|exhausted)[^.;]{0,30}\bquota",
    r"exdiskquota|dis[ck] quota|diskspace quota|(?:size|storage|space) limit[^.;]{0,30}(?:mailbox"
    r"|user)",
    r"(?:not|n't) (?:have )?enough (?:storage |disk |free )?space|out of (?:disk )?(?:space"
    r"|storage)",
    r"insufficient (?:disk|storage|space|quota)|no space left in|too (?:much|many) (?:mail"
    r"|messages)\w? (?:on|in|stored)",
    r"full mailbox|mailbox (?:is |currently )?(?:full|over)|zuviele mails|zu viele (?:mails"
    r"|nachrichten)",
    r"\b(?:space|storage)\b[^.;]{0,20}(?:not enough|insufficient|exhausted|exceeded)"
    r"|exhausted[^.;]{0,30}\b(?:space|storage)\b|(?:mail ?box|inbox|account)[^.;]{0,20}\bcapacity",
    r"\bmbox (?:is )?full|speicher\w{0,8} [^.;]{0,20}(?:überschritten|voll|erschöpft)|saturée?\b",
    r"has too many messages|too many (?:messages|mails) (?:in|on)|over (?:the|its|his"
    r"|their) (?:\w{1,10} )?(?:storage|size|limit)",
    r"переполнен|邮箱已满|信箱已满|容量|いっぱい|超過|용량|가득"
    r"|quota d[ée]pass[ée]|kontingent|dolu\b|tele[nň]",
)

POLICY = _any(
    r"\bas a relay|mail relay|open relay|insecure|non-member|members?-only|not subscribed"
    r"|not member",
    r"\byou are not (?:an? )?(?:\w{1,12} )?(?:member|subscriber)"
    r"|\bonly (?:\w{1,12} )?(?:members|subscribers)\b",
    # Of the recipient's host, whose mailbox may be fine; Dane is a name, too.
    r"\bcertificate|\bdnssec|\btlsa\b|\bdane (?:\w{1,12} )?(?:fail|invalid|valid|polic|record)",
    r"\bmailing list|captcha|low priority|multiple addresses|duplicate header|compliant|\bbase64",
    r"(?:mime|subject|invalid|received:?|missing) headers?\b|\bheaders? (?:are|is|error)\b"
    r"|binary content|authentif|verification failure|this mail server|(?<!not )\blisted (?:as"
    r"|at|in)\b",
    r"rate that prevents|protocol violation|gateway user",
    r"resolver\.rst",  # Exchange: restricted
    r"\brelay(?:ing)?\b(?!=)[^.;]{0,20}(?:den|not|prohib|allow|permit|disabl|access|restrict)"
    r"|(?:not|n't|unable to|no) (?:\w{1,12} ){0,2}relay|rcpthosts|\bpolic(?:y|ies)\b|\bspf\b"
    r"|\bdkim\b|\bdmarc\b|\bdomainkeys|authenticat",
    r"not authori[sz]ed|unauthori[sz]ed|\bvirus|malware|infected|executable"
    r"|attachments?\b[^.;]{0,30}(?:\bnot\b|block|type|reject|prohibit|banned)"
    r"|(?:illegal|invalid|banned|forbidden|dangerous|unsafe|with|blocked)[^.;]{0,30}\battachment",
    r"message (?:\w{1,10} )?(?:size|too (?:large|big|long))|too (?:large|big)\b|size (?:exceed"
    r"|limit|of)|exceeds (?:the )?(?:\w{1,10} ){0,3}size",
    r"whitelist|white list|allow ?list|not accepting (?:e-?mail|mail|messages) (?:from|with)",
    r"only accept|restricted|administrative(?:ly)? prohib|prohibited|security|\bencrypt|\btls\b",
    r"\bblocked (?:by|for|using|due|because|at)|\bbanned|rejected due to|\bviolat|\bcomplain"
    r"|breach",
    r"messages? (?:was |has been |is |were )?(?:rejected|refused|blocked) (?:due|because|by|as)",
    r"not accept (?:\w{1,10} )?(?:mail|messages) from|challenge|confirm that you"
    r"|verify (?:that )?you",
    r"too many (?:invalid|unknown|bad) |you (?:have|are) (?:been )?(?:blocked|not allowed|listed)",
    r"without (?:to|from|date|subject)|missing header|header (?:is )?(?:missing|error)|bare lf"
    r"|\bmime\b|8-?bit|\bsmtputf8\b",
    r"\baup#|\b(?:rp|sc|dy|ou)-00\d\b|\bforgery\b|\bno permit\b|\bauth failed|not a gateway"
    r"|bounced by administrator|invalid data\b|refused to (?:receive|accept)",
    r"権限|权限|權限|권한|разрешени",  # Google Groups: "does not exist, or you have no permission"
)

DEAD = _any(
    rf"\b{_BAD} (?:or \w{{1,12}} )?(?:local |final |final delivery |virtual |e-?mail |mail "
    rf"|destination )?{_WHO}\b",
    rf"@[:,]? (?:\w{{1,10}} ){{0,2}}{_GONE}",
    rf"\b{_WHO}\b[^.;]{{0,50}}\b{_GONE}",
    r"\bno such (?:local |e-?mail |mail )?(?:users?|recipients?|mail ?box|account|address|person"
    r"|customer"
    r"|domain|host|alias|id|one|name|addressee|destination|subscriber|mail ?drop|directory|people"
    r"|object|here)",
    r"\bno (?:valid |active )?(?:mail ?box|mail-box|mail box|account|user|recipient|address"
    r"|person|subscriber)s?"
    r" (?:here|found|by|with|available|exist|of that|called|named|matching|for this)",
    r"\bno ?(?:one|body) (?:here )?(?:by|with|at|of) (?:that|this)",
    r"\bnot (?:a|an|our|one of our|in our) (?:valid |known |local |active |current |existing "
    r"|registered |real )?"
    r"(?:user|mail ?box|recipient|customer|account|address|subscriber|client|member)\b",
    r"\bdo(?:es)?n[o']?t have an?\b[^.;]{0,40}\baccount|does not have an?\b[^.;]{0,40}\baccount",
    r"\bunroute?able (?:address|mail domain|domain)|unknown local[- ]part"
    r"|all relevant mx records point",
    r"(?:adr|address)\.(?:ex)?recip(?:ient)?notfound|\brecipnotfound|who are you looking for",
    r"\b(?:was|is) ?n[o']?t found (?:at|in|on)\b|\bwas not found (?:at|in|on)\b",
    r"\bno longer (?:works?|employed|with|here|at|in use|active|valid|exists?|accept|available"
    r"|monitored|used|on server)",
    r"\bhas (?:left|moved)\b|address (?:has )?changed",
    r"\bhosts?(?: or domain(?: name)?)?(?: name)? (?:was |is )?(?:not found|unknown|not known"
    r"|does not exist|not exist)",
    r"\bunknown (?:mail )?(?:host|domain)|\bdomain (?:name )?(?:\w{1,20} )?(?:does not exist"
    r"|doesn't exist|not found"
    r"|is not valid|unknown|is invalid|not exist|is unknown|(?:could|can)n[o']?t be found"
    r"|could not be found|has no mail|not known|has null mx"
    r"|does not accept mail|doesn't accept)",
    r"\bname or service not known|nx ?domain|\bnull ?mx\b|couldn't find any host"
    r"|could not find any host"
    r"|no mx (?:or a|records?|found|for)\b|no mail hosts?\b|\bno matches to nameserver"
    r"|nonexistent domain"
    r"|illegal host|invalid (?:host|domain)",
    r"\bbad destination (?:mailbox|system|host)",
    r"\b(?:unable|failed|not able) to (?:find|locate) (?:the |this |a )?(?:user|recipient|mailbox"
    r"|address)",
    r"\bbadrcptto|missing home directory|\barchived recipient|mailbox name (?:not allowed|invalid)",
    r"\buser (?:\w{1,12} )?(?:does ?n't|not) (?:exist|known|found)|not (?:a )?known user",
)

DEAD_ABROAD = (
    *("utilisateur inconnu", "destinataire inconnu", "adresse inconnue", "compte inconnu"),
    *("n'existe pas", "n'existe plus", "inexistant", "boite inconnue", "boîte inconnue"),
    *("adresse invalide", "utilisateur non recensé", "n'est pas valide", "introuvable"),
    *("unbekannter empfänger", "unbekannter benutzer", "empfänger unbekannt", "benutzer unbekannt"),
    *("empfaenger unbekannt", "empfänger existiert nicht", "existiert nicht", "nicht gefunden"),
    *("adresse unbekannt", "unbekannte adresse", "existiert leider nicht", "nicht bekannt"),
    *("usuario desconocido", "destinatario desconocido", "no existe", "usuario no encontrado"),
    *("não existe", "nao existe", "usuário desconhecido", "destinatário desconhecido"),
    *("utente sconosciuto", "destinatario sconosciuto", "non esiste", "inesistente"),
    *("nie istnieje", "nie ma takiego", "nieznany użytkownik", "nieznany odbiorca"),
    *("bestaat niet", "onbekende gebruiker", "gebruiker onbekend", "onbekende ontvanger"),
    *("okänd mottagare", "okänd användare", "finns inte", "findes ikke", "finnes ikke"),
    *("ukendt modtager", "ukjent mottaker", "tuntematon vastaanottaja", "neexistuje"),
    *("neznámý uživatel", "neznámý příjemce", "nem létezik", "ismeretlen", "nu există"),
    *("kullanıcı bulunamadı", "geçersiz alıcı", "không tồn tại", "tidak ditemukan"),
    *("пользователь не найден", "не существует", "нет такого", "неизвестный пользователь"),
    *("ящик не найден", "не найден", "δεν υπάρχει", "لا يوجد", "לא קיים"),
    *("不存在", "无此用户", "無此用戶", "查無此人", "用户未找到", "使用者不存在", "没有找到"),
    *(
        "存在しません",
        "存在しない",
        "見つかりません",
        "リストにありません",
        "宛先不明",
        "ユーザーが不明",
    ),
    *("존재하지 않", "없는 사용자", "사용자가 없", "찾을 수 없"),
)
"""What means `DEAD` in other languages."""

UNAVAILABLE = _any(
    r"recipient address rejected: access denied",  # Exchange Online, for unknown recipients
    r"(?:mail ?box|user|recipient|account) (?:is |was |temporarily |currently )*(?:not available"
    r"|unavailable)(?! or access den)",
)

NOT_FOR_GOOD = _any(
    r"temporar|soft error|try (?:again )?later|not found,? try again|greylist|graylist"
    r"|(?:currently|momentarily) (?:un|not )available"
)

TRANSIENT = _any(
    r"\b(?:server|local|mailer|write|system|internal|processing) (?:config )?error"
    r"|error (?:reading|writing|while|in)\b",
    r"no space left on"
    r"|\binterrupted|misconfigured|command (?:failed|died|output)|procmail|maildrop\b|pipe to"
    r"|transaction failed",
    r"frequency limit|lookup fail|resolve route|find a gateway|after \d{1,4} tries",
    r"not been collected|\bin queue\b|queue period",
    r"delivered for more|connection limit|emails per hour|\bsessions\b|connexions"
    r"|numerous attempts|plus tard",
    r"can(?:no|')t create|could not load|records? [^.;]{0,40}could not be found|being processed",
    r"temporar|try (?:again|later)|retry|grey ?-?list|gray ?-?list|\bbusy|timed? ?-?out|timeout",
    r"connection (?:was )?(?:refused|dropped|reset|closed|lost|failed)|lost connection"
    r"|connection to",
    r"(?:could not|couldn't|cannot|can't|unable to|wasn't able to|not able to) (?:connect"
    r"|initiate|establish|contact|open)",
    r"no (?:answer|route to)|unreachable|(?:did|does) not respond|not responding|no response",
    r"too many (?:connections|recipients|concurrent|hops|errors|sessions)|rate ?-?limit|throttl"
    r"|deferred",
    r"(?:max\w*|exceeded)[^.;]{0,30}(?:attempts|retries|time)|(?:too long|been) in (?:the )?queue"
    r"|queue too long|(?:delivery time|envelope|message|mail) expired",
    r"hosts? have been failing|temp_failure|loop(?:s|ing)?\b|configuration (?:error|problem)"
    r"|internal error",
    r"service (?:is )?(?:currently )?(?:not available|unavailable)|system (?:is )?full"
    r"|insufficient system|resources",
    r"malformed (?:or unexpected )?name server|name service error|mail server (?:down|error)"
    r"|has not yet been",
)

MESSAGE = _any(
    r"\b(?:messages?|mail|e-?mail|data|content|delivery|submission|access|attachment|envelope)"
    r"(?: (?!address|recipient|user|account|mail ?box|for\b|to\b)[\w.-]{1,40}){0,3}"
    r" (?:refused|rejected|denied|blocked|filtered|forbidden"
    r"|not (?:accepted|allowed|permitted|wanted))",
    r"\b(?:do|does|will|can) ?(?:not|n't) accept (?:this|the|your|such) (?:\w{1,12} )?"
    r"(?:message|e-?mail|mail)",
    r"(?:message|mail)[^.;]{0,60} (?:a|ont) (?:été|ete) (?:refus|bloqu)"
    r"|(?:nachricht|mail|zugriff) (?:\w{1,12} )?(?:abgelehnt|verweigert)"
    r"|(?:mensaje|correo|acceso) (?:\w{1,12} )?(?:rechazado|denegado)",
)
"""Phrases that say that the message or the client is not wanted."""

REFUSAL = _any(
    r"mail rejet|system has detected",
    r"\brefuses?\b|\breject\b|filtered|protected|restricted|go away|no access|suspension|confirm\b",
    r"\bdenied|\brefused|\bblocked|\bnot (?:allowed|permitted|accepted|accepting|acceptable"
    r"|wanted)",
    r"\bpermission|\bforbidden|(?<!recipient )(?<!address )(?<!mailbox )\brejected|\bdo not like"
    r"|\bdoes not like",
)

RECIPIENT = _any(
    r"\b(?:recipients?|rcpt|address|mail ?box|destination|user|account)(?: address)? (?:was )?"
    r"(?:rejected|refused|error|failed|failure|problem|bad|undeliverable)",
    r"\bundeliverable|\bnot deliverable|permanent (?:error|failure)|delivery (?:has )?fail",
)
"""Phrases that blame the recipient without saying why: then a status counts."""
