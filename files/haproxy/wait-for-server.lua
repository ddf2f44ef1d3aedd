-- A new session waits for a server of this backend, if none works, and goes on as soon as one does.
-- HAProxy's own rules are looked at again only when the client sends something, and of MySQL the server speaks first.
local STEP = 50 -- milliseconds

core.register_action("wait_for_server", { "tcp-req" }, function(_, backend, milliseconds)
    local proxy = core.backends[backend]
    for _ = 1, milliseconds / STEP do
        if proxy:get_srv_act() + proxy:get_srv_bck() > 0 then
            return
        end
        core.msleep(STEP)
    end
end, 2)
