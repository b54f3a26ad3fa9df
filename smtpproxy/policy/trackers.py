"""Addresses from which the open tracking of mailing services is served: data.

A line is a host (including its subdomains), a beginning of the path and query, and whose it is. The
host `*` is any: these are paths of software that runs under its customers' own names. A `*` in a
path is a UUID.

Facts about addresses that are in everybody's mail, gathered from the block lists of
MailTrackerBlocker (github.com/apparition47/MailTrackerBlocker, BSD-3-Clause, of 2021) and simplify
(github.com/leggett/simplify-trackers, MIT, of 2021) and from pixels in public mail; selected and
written anew. Addresses that ordinary pictures have too, or only links, are left out.
"""

from collections import defaultdict
from collections.abc import Mapping
from functools import cache

_KNOWN = """
*                       /wf/open                        SendGrid
*                       /ss/o/                          SendGrid
*                       /mpss/o/                        SendGrid
*                       /track/open.php                 Mailchimp
*                       /e1t/o/                         HubSpot
*                       /e2t/o/                         HubSpot
*                       /trk?t=                         Marketo
*                       /open.aspx?                     Salesforce
*                       /open/log/                      Acoustic
*                       /e/eo?                          Iterable
*                       /mk/op/                         Brevo
*                       /tr/op/                         Brevo
*                       /open.html?x=                   GetResponse
*                       /lt.php?                        ActiveCampaign
*                       /ut.php?u=                      phpList
*                       /sendy/t/                       Sendy
*                       /api/mailings/opened            Outreach
*                       /oo/                            Mailjet
*                       /sap/public/cuan/link/          SAP
*                       /smtp.mailopen                  SMTP.com
*                       /gp/r.html?                     Amazon
*                       /email_open_log_pic.php         Facebook
*                       /tj_mailer_opened_count_all.php Techgig
*                       /campaign/*/*/px.png            listmonk
*                       /mail/track/                    Odoo
*                       /mail/tracking/open/            Odoo
*                       /?mailpoet_router&endpoint=track MailPoet
*                       /index.php?option=com_acym&ctrl=frontstats AcyMailing
*                       /index.php?option=com_acymailing&ctrl=stats AcyMailing
*                       /index.php?page=acymailing_front&ctrl=frontstats AcyMailing
awstrack.me             /I0/                            Amazon SES
list-manage.com         /track/open                     Mailchimp
mailchimp.com           /mctx/opens                     Mailchimp
mandrillapp.com         /track/open                     Mandrill
sendgrid.net            /trk                            SendGrid
pstmrk.it               /open                           Postmark
sparkpostmail.com       /q/                             SparkPost
sparkpostmail2.com      /q/                             SparkPost
track.customer.io       /e/o/                           Customer.io
customeriomail.com      /e/o/                           Customer.io
trk.klaviyomail.com     /                               Klaviyo
convertkit-mail.com     /o/                             Kit
convertkit-mail2.com    /o/                             Kit
open.convertkit-mail.com /                               Kit
open.convertkit-mail2.com /                               Kit
openrate.aweber.com     /                               AWeber
rs6.net                 /on.jsp                         Constant Contact
constantcontact.com     /images/p1x1.gif                Constant Contact
click.icptrack.com      /icp/                           iContact
e2ma.net                /track                          Emma
t.e2ma.net              /                               Emma
createsend.com          /t/                             Campaign Monitor
cmail19.com             /t/                             Campaign Monitor
cmail20.com             /t/                             Campaign Monitor
emltrk.com              /                               Litmus
mjt.lu                  /oo                             Mailjet
sendibtd.com            /                               Brevo
emsecure.net            /optiext/                       Selligent
slgnt.eu                /optiext/                       Selligent
elaine-asp.de           /action/view/                   Artegic
trackedlink.net         /                               Dotdigital
dmtrk.net               /                               Dotdigital
t.hubspotemail.net      /                               HubSpot
t.hubspotfree.net       /                               HubSpot
t.signaux.com           /                               HubSpot
t.sidekickopen.com      /                               HubSpot
track.getsidekick.com   /                               HubSpot
infusionsoft.com        /app/emailOpened                Keap
govdelivery.com         /track                          Granicus
sailthru.com            /trk                            Sailthru
salesforceiq.com        /t.png                          Salesforce
nova.collect.igodigital.com /                               Salesforce
svc.dynamics.com        /t/i/                           Microsoft Dynamics
en25.com                /e/                             Oracle Eloqua
bm23.com                /t/                             Oracle Bronto
bm5150.com              /t/                             Oracle Bronto
tags.bluekai.com        /site                           Oracle
substack.com            /o/                             Substack
stat-pulse.com          /                               SendPulse
opens.responder.co.il   /                               Responder
via.intercom.io         /o?                             Intercom
intercom-mail.com       /via/o?                         Intercom
shoutout.wix.com        /so/pixel/                      Wix
wildapricot.org         /emailtracker                   Wild Apricot
nationbuilder.com       /r/o                            NationBuilder
getblueshift.com        /track                          Blueshift
streak.com              /e/o/                           Streak
mailfoogae.appspot.com  /                               Streak
yamm-track.appspot.com  /                               YAMM
mailtrack.io            /trace                          Mailtrack
mltrk.io                /pixel                          Mailtrack
yesware.com             /t/                             Yesware
t.yesware.com           /                               Yesware
track.mixmax.com        /                               Mixmax
email.mixmax.com        /                               Mixmax
mixmax.com              /api/track/                     Mixmax
saleshandy.com          /web/email/countopened          Saleshandy
salesloft.com           /email_trackers                 Salesloft
getmailspring.com       /open                           Mailspring
mailbutler.io           /tracking/                      Mailbutler
getnotify.com           /                               GetNotify
email81.com             /case                           GetNotify
mailstat.us             /tr                             Boomerang
bl-1.com                /                               Bananatag
r.superhuman.com        /                               Superhuman
go.toutapp.com          /                               ToutApp
gml.email               /                               Gmelius
gmtrack.net             /                               GMass
prosperworks.com        /tp/t                           Copper
contactmonkey.com       /api/v1/tracker                 ContactMonkey
tracking.cirrusinsight.com /                               Cirrus Insight
api.nylas.com           /open                           Nylas
canarymail.io           /track                          Canary
getmailbird.com         /OpenTrackingPixel/             Mailbird
linkedin.com            /emimp/                         LinkedIn
github.com              /notifications/beacon/          GitHub
quora.com               /qemail/mark_read               Quora
returnpath.net          /pixel.gif                      Validity
api.segment.io          /v1/pixel/                      Segment
api.mixpanel.com        /track                          Mixpanel
google-analytics.com    /collect                        Google Analytics
google-analytics.com    /g/collect                      Google Analytics
pixel.wp.com            /                               WordPress
beacon.krxd.net         /                               Salesforce
demdex.net              /                               Adobe
webtrekk.net            /                               Mapp
li.cnn.com              /imp                            LiveIntent
"""


@cache
def known_trackers() -> Mapping[str, tuple[str, ...]]:
    """Return the beginnings of path and query by host, in lower case."""
    found: dict[str, tuple[str, ...]] = defaultdict(tuple)
    for line in _KNOWN.strip().splitlines():
        host, path, _ = line.split(maxsplit=2)
        found[host] += (path.lower(),)
    return dict(found)
