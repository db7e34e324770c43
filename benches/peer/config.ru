# frozen_string_literal: true

require_relative "jobs"

# Takes a result: 401 for a token that is not a run's or is spent, else 201.
class Webhook
  OK = [201, { "Content-Type" => "application/json" }, ['{"status":"OK"}']].freeze
  DENIED = [401, { "Content-Type" => "application/json" }, ['{"error":"unauthorized"}']].freeze

  def call(env)
    id, token = env["HTTP_AUTHORIZATION"].to_s.delete_prefix("Bearer ").split(".", 2)
    return DENIED unless id && token && spent?(id, token)

    result = env["rack.input"].read
    JSON.parse(result)
    ResultJob.perform_async(id, result)
    OK
  end

  private

  def spent?(id, token)
    Sidekiq.redis do |redis|
      known = redis.hget("run:#{id}", "token")
      known && Rack::Utils.secure_compare(known, token) && redis.hdel("run:#{id}", "token").positive?
    end
  end
end

run Webhook.new
